"""A retrieval evaluation as the arguments of a contact sheet: some of its texts and what they find.

The retrieval evaluator makes them; `report.Report` draws them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from clipjax.pictures.sheets import contact_sheet

QUERIES = 6
BEST = 5


def sheet_arguments(
    texts: Sequence[str],
    *,
    text_image: np.ndarray,
    image_embed: np.ndarray,
    text_embed: np.ndarray,
    load: Callable[[int], np.ndarray],
    queries: int = QUERIES,
) -> dict[str, Any]:
    """{"queries", "images", "scores", "right", "notes"} for `contact_sheet.draw`.

    The texts are evenly spaced, so that one evaluation's sheet compares with the next one's.

    Args:
      texts: M captions.
      text_image: int [M], the image that each belongs to.
      image_embed: float32 [N, E], L2-normalised.
      text_embed: float32 [M, E], L2-normalised.
      load: index → uint8 [H, W, 3], called for the images that are shown.
      queries: how many texts to show.
    """
    asked = np.unique(np.linspace(0, len(texts) - 1, min(queries, len(texts))).astype(int))
    best, scores = contact_sheet.best(text_embed[asked], image_embed, count=BEST)
    own = np.asarray(text_image)[asked]
    cosine = text_embed[asked] @ image_embed.T  # [Q, N]
    # Ties and NaN count against the model, as in the recall; its own image makes the first rank 1.
    ranks = np.sum(~(cosine < np.take_along_axis(cosine, own[:, None], axis=1)), axis=1)
    return {
        "queries": [texts[i] for i in asked],
        "images": [[load(int(i)) for i in row] for row in best],
        "scores": scores,
        "right": best == own[:, None],
        "notes": [f"its image is at rank {rank:,} of {len(image_embed):,}" for rank in ranks],
    }
