"""Evaluation images that were trained on, and what they did to the scores (paper, section 5).

    python -m clipjax.overlap --workdir=RUN --suite=paper27 --data=DIR    # against its own data
    python -m clipjax.overlap --weights=PATH --suite=paper27 --data=DIR --training=tar:SHARDS

Run it after `clipjax.evaluate` with the same suite. Of every set it writes a sheet of the nearest
pairs, RESULTS/overlap/SET.png: look where copies end, write {"SET": cosine, …} into a JSON file
and run it again with --thresholds=FILE; nothing is embedded twice. Until then only equal files and
equal looks count. overlap.json and overlap.png hold Overlap, Clean and All.
"""

import dataclasses
import json
from typing import Any

from absl import flags

from clipjax.common import cli, exits, files
from clipjax.common.exits import ConfigError


def run(
    *,
    workdir: str = "",
    weights: str = "",
    suite: str,
    data: str = "",
    training: str = "",
    results: str = "",
    output: str = "results",
    thresholds: str = "",
    distance: int = 4,
    num_workers: int = 0,
    step: int | None = None,
) -> int:
    """Do what the flags of the same names ask; returns the exit code.

    Raises:
      CleanExit: with the exit code for what was wrong.
    """
    if bool(workdir) == bool(weights):
        raise ConfigError("name the model: --workdir=RUN, or --weights=PATH with --training")
    if weights and not training:
        raise ConfigError("--training is missing; write SOURCE:PATH, such as tar:/data/laion")
    if not suite:
        raise ConfigError("--suite is missing: the one that `clipjax.evaluate` was run with")
    from clipjax.evals import suites

    chosen = suites.find(suite)
    from clipjax import api
    from clipjax.evals.suites import report
    from clipjax.parallel import distributed
    from clipjax.run import suites as run_suites

    distributed.initialize(alone=False)
    model = api.load(weights or workdir, step=step)
    folder = results or (
        f"{output}/{chosen.name}"
        if weights
        else run_suites.results_folder(workdir, chosen, model.step)
    )
    find(
        run_suites.evaluated_model(model, path=weights or workdir),
        chosen,
        training=_training(model, training),
        data=data,
        folder=folder,
        thresholds=_thresholds(thresholds),
        distance=distance,
        num_workers=num_workers,
    )
    if distributed.is_lead():
        print(report.write(folder))
    return exits.DONE


def find(
    model: Any,
    suite: Any,
    *,
    training: Any,
    data: str,
    folder: str,
    thresholds: dict[str, float],
    distance: int,
    num_workers: int,
) -> dict[str, Any]:
    """Search, write, and return what overlap.json holds.

    Args:
      model: an `EvaluatedModel`, whose image tower embeds.
      suite: whose sets have zero-shot results in `folder`.
      training: source of the training images.
      data: folder of the sets.
      folder: of results.
      thresholds: set → cosine from which images are copies.
      distance: bits of 64 that hashes of copies may differ in.
      num_workers: processes that read and hash.
    """
    from etils import epath

    from clipjax.evals import overlap
    from clipjax.evals.suites import results
    from clipjax.parallel import distributed
    from clipjax.pictures import canvas
    from clipjax.pictures.charts import overlap as overlap_chart

    output = epath.Path(folder) / "overlap"
    sets = overlap.measured(suite, data=data, folder=folder, image_size=model.image_size)
    unknown = set(thresholds) - {one.name for one in sets}
    if unknown:
        raise ConfigError(
            f"--thresholds: {sorted(unknown)[0]} is none of the suite's measured sets"
        )
    neighbours = overlap.neighbours(
        model, sets, training=training, folder=output, distance=distance, num_workers=num_workers
    )
    rows, table = [], {}
    for one, near in zip(sets, neighbours, strict=True):
        threshold = thresholds.get(one.name, float("inf"))
        effect = overlap.effect(one.right, near.overlapping(threshold))
        by = near.found_by(threshold)
        chosen = None if threshold == float("inf") else threshold
        measured = {"n": len(one.right), "threshold": chosen, "found": by}
        table[one.name] = measured | dataclasses.asdict(effect)
        rows.append(_row(one, by, effect))
        summary = f"{by['any']:,} of {len(one.right):,} overlap"
        summary += f" ({by['file']:,} files, {by['look']:,} looks)"
        print(
            f"{one.title}: {summary}; all less clean {effect.change:+.2%}, p {effect.p_value:.2g}"
        )
        if distributed.is_lead():
            sheet = _sheet(one, near, training, threshold=chosen)
            if sheet is not None:
                files.write(
                    output / f"{one.name}.png",
                    canvas.png(sheet, title=one.title, description="nearest pairs"),
                )
    if distributed.is_lead():
        files.write_json(output / "overlap.json", results.plain(table), indent=1)
        picture = overlap_chart.draw(rows, title=f"overlap with {training.name}")
        files.write(
            output / "overlap.png",
            canvas.png(picture, title="overlap", description="as figure 17 of the paper"),
        )
        print(output / "overlap.png")
    return table


def _row(one: Any, by: dict[str, int], effect: Any) -> Any:
    from clipjax.pictures.charts import overlap as overlap_chart

    low, high = effect.overlap_interval
    clean = effect.clean.value
    known = bool(by["any"]) and by["any"] < len(one.right)
    difference = (effect.difference, low - clean, high - clean) if known else (0.0, 0.0, 0.0)
    return overlap_chart.Row(
        name=one.title,
        n=len(one.right),
        found=by,
        difference=difference,
        change=(effect.change, *effect.change_interval),
        p_value=effect.p_value,
    )


def _sheet(one: Any, near: Any, training: Any, *, threshold: float | None) -> Any:
    """The nearest pairs by embedding, from the nearest on; None without any."""
    from clipjax.data.images import thumbnail
    from clipjax.pictures.sheets import near_pairs

    chosen = near_pairs.spread(near.cosine)
    if not len(chosen):
        return None
    notes = [
        "same file" if near.file[i] >= 0 else "same look" if near.look[i] >= 0 else ""
        for i in chosen
    ]
    pairs = [
        (
            thumbnail(one.source[int(i)]["image"], side=256),
            thumbnail(training[int(near.embedding[i])]["image"], side=256),
        )
        for i in chosen
    ]
    chosen_at = f"threshold {threshold}" if threshold is not None else "no threshold chosen yet"
    rows = "above the evaluation image, below the training image, and their cosine"
    return near_pairs.draw(
        pairs,
        scores=near.cosine[chosen],
        notes=notes,
        threshold=threshold,
        title=f"{one.title}: nearest training images",
        subtitle=f"{rows}; {chosen_at}",
    )


def _training(model: Any, named: str) -> Any:
    from clipjax import config
    from clipjax.build import data as build_data

    if not named:
        settings, seed = model.config.data, model.config.seed
    else:
        kind, colon, path = named.partition(":")
        if not colon:
            raise ConfigError(f"--training={named}: write SOURCE:PATH, such as tar:/data/laion")
        settings, seed = config.records(source=kind, path=path), 0
    return build_data.source(settings, image_size=model.image_size, seed=seed)


def _thresholds(file: str) -> dict[str, float]:
    if not file:
        return {}
    from etils import epath

    try:
        return {str(k): float(v) for k, v in json.loads(epath.Path(file).read_text()).items()}
    except OSError as error:
        raise ConfigError(f"--thresholds={file}: cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, AttributeError):
        raise ConfigError(f'--thresholds={file}: write {{"SET": 0.95, …}}') from None


def _define_flags() -> None:
    cli.define_path("workdir", "", "The run's folder, local or gs://.")
    cli.define_path(
        "weights",
        "",
        "Or weights of any format that clipjax.load reads.",
        protocols=files.WEIGHTS,
    )
    flags.DEFINE_integer("step", None, "Which checkpoint; default the newest.")
    flags.DEFINE_string("suite", "", "As `clipjax.evaluate --suite`, run before.")
    cli.define_path("data", "", "Folder of the suite's data sets.")
    flags.DEFINE_string("training", "", "Training data, SOURCE:PATH; default the run's own.")
    cli.define_path("results", "", "Folder of the suite's results; default where they go.")
    cli.define_path("output", "results", "As `clipjax.evaluate --output`.")
    cli.define_path("thresholds", "", "JSON file of cosines by set, chosen on the sheets.")
    flags.DEFINE_integer("distance", 4, "Bits of 64 that hashes of copies differ in.", 0, 7)
    flags.DEFINE_integer("num_workers", 0, "Processes that read and hash; 0 is this one.")


def main() -> int:
    """`run` with the flags; returns the exit code."""
    names = ("workdir", "weights", "suite", "data", "training", "results", "output", "thresholds")
    numbers = ("distance", "num_workers", "step")
    return run(**{name: getattr(flags.FLAGS, name) for name in (*names, *numbers)})


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
