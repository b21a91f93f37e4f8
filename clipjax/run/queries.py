"""Questions to a checkpoint: the best images for some words, the label that fits an image.

The evaluating program answers `--query` and `--image` with these.
"""

import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from clipjax.build import data as build_data
from clipjax.common import files, lists
from clipjax.common.counts import counted
from clipjax.common.exits import ConfigError
from clipjax.config import evaluation_data
from clipjax.data.images import thumbnail
from clipjax.data.sources.folder import PATHS, Folder
from clipjax.evals import prompts
from clipjax.parallel import distributed
from clipjax.pictures import canvas
from clipjax.pictures.sheets import contact_sheet

BEST = 5  # images shown for a query
LETTERS = 1000  # ids; a smaller vocabulary spells words of its own captions, too


def show_best(model: Any, queries: Sequence[str], *, images: str, workdir: str) -> Any:
    """Write the sheet of the best images for each query and print them; returns its path."""
    source = Folder(images, text_key=PATHS) if images else _evaluation_images(model.config)
    embeds = model.embedder(len(source)).images(
        model.variables, source, image_size=model.image_size, poll=lambda: False
    )
    order, scores = contact_sheet.best(model.encode_text(queries), embeds, count=BEST)
    if not distributed.is_lead():
        return None
    cut = [q for q, long in zip(queries, model.tokenizer.encode(queries)[1], strict=True) if long]
    records = [[source[int(i)] for i in row] for row in order]
    names = [
        [record["key"] if images else _one(record["text"]) for record in row] for row in records
    ]
    title = f"{os.path.basename(workdir.rstrip('/'))}, step {model.step:,}"
    subtitle = f"the best of {counted(len(source), 'image')} of {images or source.name}"
    sheet = contact_sheet.draw(
        queries,
        images=[[thumbnail(record["image"], side=256) for record in row] for row in records],
        scores=scores,
        names=names if images else None,
        title=title,
        subtitle=subtitle,
        attribution=source.attribution,
    )
    words = "_".join(re.findall(r"[a-z0-9]+", queries[0].lower()))[:60] or "query"
    more = f"_and_{len(queries) - 1}_more" if len(queries) > 1 else ""
    file = output_file(workdir, f"step_{model.step}_{words}{more}.png")
    for q, query in enumerate(queries):
        print(f'"{query}" among {counted(len(source), "image")}{_unseen(query, model)}')
        for k, name in enumerate(names[q]):
            print(f"  {k + 1}  {scores[q][k]:6.3f}  {name}")
    for query in cut:
        print(f'note: "{query}" is longer than the model reads; its end was cut off')
    if not np.isfinite(scores).all():
        print("note: scores are not finite: this checkpoint is damaged or its training diverged")
    labelled = {"title": title, "description": subtitle, "attribution": source.attribution}
    files.write(file, canvas.png(sheet, **labelled))
    print(file, flush=True)
    return file


def _unseen(query: str, model: Any) -> str:
    """What to say of words that the model knows by their letters alone; "" where it knows all."""
    words = [word for word in re.findall(r"[^\W\d_]+", query) if is_spelled(word, model)]
    unseen = " or ".join(f'"{word}"' for word in dict.fromkeys(words))
    return f"; the vocabulary never saw {unseen}, so the order may mean little" if words else ""


def is_spelled(word: str, model: Any) -> bool:
    """Whether a vocabulary reads a word as bytes, or as letters and pairs of letters."""
    tokenizer = model.tokenizer
    specials = (tokenizer.start_id, tokenizer.end_id, tokenizer.pad_id)
    ids = [int(token) for token in tokenizer.encode([word])[0][0] if token not in specials]
    pieces = [tokenizer.decode([token]) for token in ids]
    if any(mark in piece for piece in pieces for mark in "\ufffd⁇"):  # bytes, or unknown
        return True
    has_words = tokenizer.vocab_size > LETTERS and word.isascii() and len(word) > 2
    return has_words and all(len(piece) <= 2 for piece in pieces)


def show_labels(
    model: Any, image: str, *, labels: Sequence[str], templates: Sequence[str]
) -> list[tuple[str, float]]:
    """Print the labels with their probabilities, best first; returns them."""
    templates = tuple(templates) or _templates(model.config) or prompts.GENERIC
    try:
        probabilities = model.zero_shot([image], labels, templates=templates)[0]
    except (ValueError, OSError) as error:
        raise ConfigError(f"--image={error}") from None
    ranked = sorted(zip(labels, map(float, probabilities), strict=True), key=lambda pair: -pair[1])
    if distributed.is_lead():
        shown = f'"{templates[0]}"' + (f" and {len(templates) - 1} more" if templates[1:] else "")
        print(f"{image}, step {model.step:,}, prompts {shown}")
        width = max(map(len, labels))
        for label, probability in ranked:
            print(f"  {label.ljust(width)}  {probability:7.1%}")
        print("probabilities are among these labels only: one gets the most, fitting or not")
    return ranked


def _templates(config: Any) -> tuple[str, ...]:
    """Templates of the run's first zero-shot evaluator: its prompts are what the model can read."""
    for name, settings in config.evals.items():
        if settings.kind == "zero_shot":
            source = evaluation_data.settings(config, name).source
            table = prompts.TABLES.get(settings.classes or prompts.TABLE_OF_SOURCE.get(source, ""))
            own = tuple(lists.texts(settings.templates, what="templates"))
            return own or (table().templates if table else ())
    return ()


def _evaluation_images(config: Any) -> Any:
    """The data of the first evaluator, retrieval before others."""
    names = sorted(config.evals, key=lambda name: config.evals[name].kind != "retrieval")
    if not names:
        raise ConfigError("the run has no evaluation images; add --images=FOLDER")
    return build_data.evaluation_source(config, names[0])


def _one(text: str | Sequence[str]) -> str:
    return text if isinstance(text, str) else text[0]


def output_file(workdir: str, name: str) -> Any:
    """WORKDIR/evaluations/NAME; WORKDIR may also be one step's folder."""
    folder = epath.Path(workdir)
    if folder.name.isdigit() and folder.parent.name == "checkpoints":
        folder = folder.parent
    if folder.name == "checkpoints":
        folder = folder.parent
    return folder / "evaluations" / name
