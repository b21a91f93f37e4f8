"""What a training run shows in WORKDIR/report: chosen from its data and evaluations, then drawn.

The training program calls these with the report that `open_report` gave, or with None on processes
that draw nothing. None of them can end a run.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.data import eval_batches
from clipjax.data.examples import TrainExamples
from clipjax.pictures import contact_sheet
from clipjax.pictures.report import Report

SAMPLES = 12
QUERIES = 6
BEST = 5


def open_report(
    workdir: str,
    *,
    log: str,
    chance: Mapping[str, float],
    total_steps: int,
    source: Any,
    say: Callable[[str], None] = print,
) -> Report:
    """The report of the run in `workdir`, named after it.

    Args:
      workdir: local or remote.
      log: path of the local, flushed `metrics.jsonl`.
      chance: metric → what guessing scores; see `clipjax.pictures.chance`.
      total_steps: of the whole run.
      source: whose pictures it shows; its module may have an ATTRIBUTION.
      say: prints a line, past the progress bar.
    """
    import sys

    return Report(
        f"{workdir.rstrip('/')}/report",
        title=os.path.basename(workdir.rstrip("/")),
        log=log,
        chance=chance,
        total_steps=total_steps,
        attribution=getattr(sys.modules[type(source).__module__], "ATTRIBUTION", ""),
        say=say,
    )


def show_samples(report: Report | None, examples: TrainExamples, *, start: int) -> None:
    """Draw the training examples from global position `start` on."""
    if report is not None:
        found = report.attempt(lambda: training_samples(examples, start=start), what="samples")
        if found is not None:
            report.samples(**found)


class _Remembering:
    """A tokenizer that remembers the text it was last given."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.text = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def encode(self, texts: Sequence[str]) -> Any:
        self.text = texts[0]
        return self.tokenizer.encode(texts)


def training_samples(
    examples: TrainExamples, *, start: int, count: int = SAMPLES
) -> dict[str, Any]:
    """The arguments of `Report.samples` for `count` positions, exactly as training sees them."""
    remembering = _Remembering(examples.tokenizer)
    same = TrainExamples(
        examples.source,
        tokenizer=remembering,
        image_size=examples.image_size,
        seed=examples.seed,
    )
    found: dict[str, Any] = {
        "images": [],
        "captions": [],
        "tokens": [],
        "truncated": [],
        "first": start,
    }
    for position in range(start, start + count):
        example = same[position]
        found["images"].append(example["image"])
        found["captions"].append(remembering.text)
        found["tokens"].append(decoded_tokens(example["text"], tokenizer=examples.tokenizer))
        found["truncated"].append(example["truncated"])
    return found


def decoded_tokens(ids: np.ndarray, *, tokenizer: Any) -> list[str]:
    """Each token of one caption, int [T], decoded alone, between start and end of text."""
    start_id, end_id = tokenizer.vocab_size - 2, tokenizer.vocab_size - 1
    kept = list(map(int, ids))
    kept = kept[: kept.index(end_id)] if end_id in kept else kept
    return [tokenizer.decode([token]) for token in kept if token != start_id]


@dataclasses.dataclass(frozen=True)
class Retrieved:
    """What a retrieval evaluation leaves behind for its sheet."""

    source: Any  # N records
    image_size: int
    texts: Sequence[str]  # M
    text_image: np.ndarray  # int [M], the image that each text belongs to
    image_embed: np.ndarray  # float32 [N, E]
    text_embed: np.ndarray  # float32 [M, E]


def retrieval_sheet(found: Retrieved, *, queries: int = QUERIES) -> dict[str, Any]:
    """The arguments of `contact_sheet.draw`: evenly spaced texts, the same at each evaluation."""
    total = len(found.texts)
    asked = np.unique(np.linspace(0, total - 1, min(queries, total)).astype(int))
    best, scores = contact_sheet.best(found.text_embed[asked], found.image_embed, count=BEST)
    own = found.text_image[asked]
    cosines = found.text_embed[asked] @ found.image_embed.T  # [Q, N]
    # a tie counts against the model, as in the recall
    ranks = np.sum(cosines >= np.take_along_axis(cosines, own[:, None], axis=1), axis=1)
    return {
        "queries": [found.texts[i] for i in asked],
        "images": [[_image(found, int(i)) for i in row] for row in best],
        "scores": scores,
        "right": best == own[:, None],
        "notes": [f"its image is at rank {rank:,} of {cosines.shape[1]:,}" for rank in ranks],
    }


def _image(found: Retrieved, index: int) -> np.ndarray:
    loaded = eval_batches.load_eval_image(index, source=found.source, size=found.image_size)
    return loaded["image"]


def show_evaluation(
    report: Report | None,
    step: int,
    *,
    retrieved: Mapping[str, Retrieved] | None = None,
    confusions: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Draw what the evaluators of a step found, by their names, then curves and page.

    `confusions` holds {"counts": int [C, C], "names": C texts} for each.
    """
    if report is None:
        return
    sheets = {}
    for name, found in (retrieved or {}).items():
        sheet = report.attempt(lambda found=found: retrieval_sheet(found), what=f"sheet of {name}")
        if sheet is not None:
            sheets[name] = sheet
    report.evaluation(step, sheets=sheets, confusions=confusions)
