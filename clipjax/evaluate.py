"""Evaluate a checkpoint: `python -m clipjax.evaluate --workdir=DIR [--step=N]`.

Runs all evaluators of the run on it, or asks it something:
  --query="a fox to the left of a pizza"   the best images, on a sheet; repeatable
  --query=... --images=FOLDER              among images of your own
  --image=FILE --labels="a dog, a cat"     which label fits
A checkpoint is all it needs, besides the evaluation data. Run it on every host of a slice, or on
any one machine.
"""

import json
import os
import re
import sys
import time
from collections.abc import Sequence
from typing import Any

from absl import flags

from clipjax.common import cli, exits
from clipjax.common.exits import ConfigError

BEST = 5  # images shown for a query


def run(
    workdir: str,
    *,
    step: int | None = None,
    queries: Sequence[str] = (),
    images: str = "",
    image: str = "",
    labels: Sequence[str] = (),
    templates: Sequence[str] = (),
) -> int:
    """Do what the flags of the same names ask; returns the exit code.

    Raises:
      CleanExit: with the exit code for what was wrong.
    """
    _check(workdir, queries=queries, images=images, image=image, labels=labels)
    from clipjax import api  # jax and its friends load here, after the cheap checks
    from clipjax.parallel import compilation_cache, distributed

    distributed.initialize(alone=False)
    model = api.load(workdir, step=step)
    compilation_cache.enable(model.config.compilation_cache)
    if queries:
        show_best(model, queries, images=images, workdir=workdir)
    elif image:
        show_labels(model, image, labels=labels, templates=templates)
    else:
        run_evaluators(model, workdir=workdir)
    return exits.DONE


def _check(
    workdir: str, *, queries: Sequence[str], images: str, image: str, labels: Sequence[str]
) -> None:
    if not workdir:
        raise ConfigError("--workdir is missing; name the run's folder, --workdir=runs/quickstart")
    if "://" not in workdir and not os.path.isdir(workdir):
        raise ConfigError(f"--workdir={workdir}: no such folder (looked from {os.getcwd()})")
    if images and not queries:
        raise ConfigError(f'--images={images}: add what to look for, --query="a dog"')
    if queries and (image or labels):
        raise ConfigError("--query and --image are two questions; ask one at a time")
    if bool(image) != bool(labels):
        raise ConfigError('--image and --labels go together: --image=x.jpg --labels="a dog, a cat"')
    if labels and len(labels) < 2:
        raise ConfigError(f'--labels="{labels[0]}": give two or more, separated by commas')
    if image and not os.path.isfile(os.path.expanduser(image)):
        raise ConfigError(f"--image={image}: no such file (looked from {os.getcwd()})")
    if not all(query.strip() for query in queries):
        raise ConfigError('--query="": is empty; write what the image should show')


def run_evaluators(model: Any, *, workdir: str) -> dict[str, Any]:
    """Run all, print the table, write WORKDIR/evaluations/step_N.json; returns what it holds."""
    import jax

    import clipjax
    from clipjax import build_data
    from clipjax.parallel import distributed
    from clipjax.pictures import table

    config = model.config
    if not config.evals:
        raise ConfigError(
            f"{workdir}: its config has no evaluators (config.evals); ask --query or --image, or"
            " start the training again with some: they may be added at any time"
        )
    _fit_batches(config, mesh=model.mesh)
    lead = distributed.is_lead()
    found: dict[str, Any] = {}
    rows = []
    evaluators = build_data.evaluators(config, mesh=model.mesh, tokenizer=model.tokenizer)
    for name, evaluator in evaluators.items():
        began = time.perf_counter()
        metrics = evaluator(model.params, poll=lambda: False)
        seconds = round(time.perf_counter() - began, 2)
        if lead:
            print(f"{name}: {evaluator.n:,} images, {seconds:.1f} s", flush=True)
        found[name] = {
            "kind": config.evals[name].kind,
            "n": evaluator.n,
            "metrics": metrics,
            "chance": evaluator.chance,
            "seconds": seconds,
        }
        rows += [
            table.Row(f"eval/{name}/{key}", value, model.step, evaluator.chance.get(key))
            for key, value in metrics.items()
            if not isinstance(value, str)
        ]
    result = {
        "step": model.step,
        "examples_seen": model.run["examples_seen"],
        "evaluations": found,
        "devices": f"{model.mesh.size} × {jax.devices()[0].device_kind}",
        "clipjax": clipjax.__version__,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    if lead:
        file = _output(workdir, f"step_{model.step}.json")
        file.write_text(json.dumps(result, indent=2) + "\n")
        print(f"\n{table.text(rows)}\n\n{file}", flush=True)
    return result


def show_best(model: Any, queries: Sequence[str], *, images: str, workdir: str) -> Any:
    """Write the sheet of the best images for each query and print them; returns its path."""
    import numpy as np

    from clipjax.data.sources.folder import Folder
    from clipjax.parallel import distributed
    from clipjax.pictures import canvas, contact_sheet

    source = Folder(images) if images else _evaluation_images(model.config)
    embeds = model.embedder(len(source)).images(
        model.params, source, image_size=model.image_size, poll=lambda: False
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
    subtitle = f"the best of {len(source):,} images of {images or source.name}"
    whole = getattr(source, "source", source)  # one cut to its first records says whose
    attribution = getattr(sys.modules[type(whole).__module__], "ATTRIBUTION", "")
    sheet = contact_sheet.draw(
        queries,
        images=[[_thumbnail(record["image"]) for record in row] for row in records],
        scores=scores,
        names=names if images else None,
        title=title,
        subtitle=subtitle,
        attribution=attribution,
    )
    words = "_".join(re.findall(r"[a-z0-9]+", queries[0].lower()))[:60] or "query"
    more = f"_and_{len(queries) - 1}_more" if len(queries) > 1 else ""
    file = _output(workdir, f"step_{model.step}_{words}{more}.png")
    file.write_bytes(canvas.png(sheet, title=title, description=subtitle, attribution=attribution))
    for q, query in enumerate(queries):
        print(f'"{query}" among {len(source):,} images')
        for k, name in enumerate(names[q]):
            print(f"  {k + 1}  {scores[q][k]:6.3f}  {name}")
    for query in cut:
        print(f'note: "{query}" is longer than the model reads; its end was cut off')
    if not np.isfinite(scores).all():
        print("note: scores are not finite: this checkpoint is damaged or its training diverged")
    print(file, flush=True)
    return file


def show_labels(
    model: Any, image: str, *, labels: Sequence[str], templates: Sequence[str]
) -> list[tuple[str, float]]:
    """Print the labels with their probabilities, best first; returns them."""
    from clipjax.evals import prompts
    from clipjax.parallel import distributed

    templates = tuple(templates) or _templates(model.config) or prompts.GENERIC
    try:
        probabilities = model.zero_shot([image], labels, templates=templates)[0]
    except (ValueError, OSError) as error:
        raise ConfigError(f"--image={error}") from None
    ranked = sorted(zip(labels, map(float, probabilities), strict=True), key=lambda pair: -pair[1])
    if distributed.is_lead():
        told = f'"{templates[0]}"' + (f" and {len(templates) - 1} more" if templates[1:] else "")
        print(f"{image}, step {model.step:,}, prompts {told}")
        width = max(map(len, labels))
        for label, probability in ranked:
            print(f"  {label.ljust(width)}  {probability:7.1%}")
        print("probabilities are among these labels only: one gets the most, fitting or not")
    return ranked


def _templates(config: Any) -> tuple[str, ...]:
    """Of the run's first zero-shot evaluator: its prompts are what the model can read."""
    from clipjax.evals import prompts

    for settings in config.evals.values():
        if settings.kind == "zero_shot":
            source = settings.source or config.data.source
            table = prompts.TABLES.get(settings.classes or prompts.TABLE_OF_SOURCE.get(source, ""))
            return tuple(settings.templates) or (table().templates if table else ())
    return ()


def _evaluation_images(config: Any) -> Any:
    """The data of the first evaluator, retrieval before others."""
    from clipjax import build_data

    names = sorted(config.evals, key=lambda name: config.evals[name].kind != "retrieval")
    if not names:
        raise ConfigError("the run has no evaluation images; add --images=FOLDER")
    return build_data.evaluation_source(config, names[0])


def _fit_batches(config: Any, *, mesh: Any) -> None:
    """Make the batches of training divide over the devices that are here."""
    from clipjax.parallel.mesh import batch_shards

    shards = batch_shards(mesh)
    config.batch_size += -config.batch_size % shards
    for settings in config.evals.values():
        settings.batch_size += -settings.batch_size % shards


def _thumbnail(data: bytes) -> Any:
    """uint8 [H, W, 3], at most 256 pixels."""
    import io

    import numpy as np
    from PIL import Image

    picture = Image.open(io.BytesIO(data)).convert("RGB")
    picture.thumbnail((256, 256))
    return np.asarray(picture)


def _one(text: str | Sequence[str]) -> str:
    return text if isinstance(text, str) else text[0]


def _output(workdir: str, name: str) -> Any:
    """WORKDIR/evaluations/NAME, the folder made; WORKDIR may also be one step's folder."""
    from etils import epath

    folder = epath.Path(workdir)
    if folder.name.isdigit() and folder.parent.name == "checkpoints":
        folder = folder.parent
    if folder.name == "checkpoints":
        folder = folder.parent
    folder = folder / "evaluations"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def _define_flags() -> None:
    flags.DEFINE_string("workdir", None, "The run's folder, local or gs://.")
    flags.DEFINE_integer("step", None, "Which checkpoint; default the newest.")
    flags.DEFINE_multi_string("query", [], "Find the best images for these words; repeatable.")
    flags.DEFINE_string("images", "", "Folder of your own images for --query.")
    flags.DEFINE_string("image", "", "An image to choose a label for.")
    flags.DEFINE_string("labels", "", "Labels for --image, separated by commas.")
    flags.DEFINE_multi_string(
        "template", [], "Prompt for --labels with {} for the label; repeatable. Default: the run's."
    )


def main() -> int:
    """`run` with the flags; returns the exit code."""
    given = flags.FLAGS
    return run(
        given.workdir or "",
        step=given.step,
        queries=given.query,
        images=given.images,
        image=given.image,
        labels=[label.strip() for label in given.labels.split(",") if label.strip()],
        templates=given.template,
    )


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
