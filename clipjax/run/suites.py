"""A suite of evaluation sets on weights, on a run's checkpoint, or on each one as it comes.

The evaluating program calls `on_weights` and `watch` for `--suite`. Results and their report lie
in OUTPUT/SUITE, or WORKDIR/evaluations/SUITE/step_N.
"""

import dataclasses
import os
import time
from collections.abc import Callable
from typing import Any

import jax

from clipjax import api
from clipjax.common import durations
from clipjax.common.counts import counted
from clipjax.common.exits import CheckpointError, ConfigError, DataError
from clipjax.evals import suites
from clipjax.evals.evaluated import EvaluatedModel, weights_id
from clipjax.evals.suites import report, runner
from clipjax.evals.suites.results import Record, step_name
from clipjax.models import zoo
from clipjax.parallel import distributed
from clipjax.parallel.mesh import batch_shards
from clipjax.run import folder as run_folder
from clipjax.training.checkpoint import read as checkpoint_reader

PATIENCE = 30.0  # seconds between looks for a new checkpoint
DEFAULTS = suites.Options()


def on_weights(
    path: str, suite: suites.Suite, *, output: str, options: suites.Options = DEFAULTS
) -> list[Record]:
    """The suite on weights of any format that `clipjax.load` reads.

    Args:
      path: of the weights.
      suite: what to run.
      output: folder of results; OUTPUT/SUITE is made.
      options: how.

    Raises:
      ConfigError, CheckpointError: the weights cannot be used.
      DataError: no set could be measured, or one that is there cannot be used; the rest is done.
    """
    model = api.load(path, average=options.average)
    folder = f"{output}/{suite.name}"
    return _check(_run(model, suite, folder=folder, path=path, options=options), folder=folder)


def on_run(
    workdir: str,
    suite: suites.Suite,
    *,
    step: int | None = None,
    options: suites.Options = DEFAULTS,
) -> list[Record]:
    """The suite on one checkpoint of a run, by default the newest; otherwise as `on_weights`."""
    records, folder = _run_step(workdir, suite, step=step, options=options)
    return _check(records, folder=folder)


def _run_step(
    workdir: str,
    suite: suites.Suite,
    *,
    step: int | None,
    options: suites.Options,
    say: Callable[[str], None] = print,
) -> tuple[list[Record], str]:
    """The records of a run's checkpoint, and the folder that they lie in."""
    model = api.load(workdir, step=step, average=options.average)
    folder = results_folder(workdir, suite, model.step, average=options.average)
    return _run(model, suite, folder=folder, path=workdir, options=options, say=say), folder


def watch(
    workdir: str,
    suite: suites.Suite,
    *,
    patience: float = PATIENCE,
    say: Callable[[str], None] = print,
    options: suites.Options = DEFAULTS,
) -> list[int]:
    """The suite on each checkpoint that a training run saves, until the run is complete.

    Steps that are evaluated are skipped, those that the run has deleted meanwhile too; of several
    that wait, the oldest comes first. Returns the steps.

    Raises:
      DataError: no set could be measured; or after the last step, where one could not be used.
    """
    done: list[int] = []
    failed: tuple[list[Record], str] | None = None
    while True:
        steps = [step for step in _steps(workdir) if step not in done]
        if steps:
            try:
                records, folder = _run_step(workdir, suite, step=steps[0], options=options, say=say)
                if not any(record.measurements for record in records):
                    _check(records, folder=folder)
                if any(record.status == "failed" for record in records):
                    failed = records, folder
            except CheckpointError as error:
                if steps[0] in _steps(workdir):
                    raise
                say(f"step {steps[0]} is gone before it was read ({error})")
            except ConfigError:
                if steps[0] in _steps(workdir):
                    raise
                say(f"step {steps[0]} is gone before it was read")
            done.append(steps[0])
            continue
        if done and (last := _last_step(workdir)) is not None and done[-1] >= last:
            if failed:
                _check(failed[0], folder=failed[1])
            return done
        time.sleep(patience)


def _steps(workdir: str) -> list[int]:
    """The checkpoints there are, as process 0 sees them; [] before the first."""
    steps = b""
    if distributed.is_lead():
        try:
            steps = " ".join(map(str, checkpoint_reader.steps(workdir))).encode()
        except ConfigError:
            steps = b""
    return [int(step) for step in distributed.from_lead(steps).split()]


def _last_step(workdir: str) -> int | None:
    """The run's length; None where it is counted in epochs, whose data are not open here."""
    config = run_folder.read_config(workdir)
    try:
        return durations.steps(config.total, where="config.total", batch_size=config.batch_size)
    except ConfigError:
        return None


def results_folder(workdir: str, suite: suites.Suite, step: int, *, average: bool = True) -> str:
    """Where the results of a run's checkpoint lie."""
    top = workdir.rstrip("/")
    for part in (str(step), "checkpoints"):
        top = top.removesuffix(f"/{part}")
    return f"{top}/evaluations/{suite.name}/{step_name(step, average=average)}"


def _run(
    model: api.Model,
    suite: suites.Suite,
    *,
    folder: str,
    path: str,
    options: suites.Options = DEFAULTS,
    say: Callable[[str], None] = print,
) -> list[Record]:
    measured = evaluated_model(model, path=path)
    if not options.compare and measured.name in zoo.MODELS:
        options = dataclasses.replace(options, compare=measured.name)
    records = runner.run_suite(measured, suite, folder=folder, options=options, say=say)
    distributed.on_lead(lambda: say(report.write(folder)))  # before another process may end
    return records


def evaluated_model(model: api.Model, *, path: str) -> EvaluatedModel:
    """A loaded model as protocols see it."""
    name = str(model.config.model.get("name", "custom"))
    known: dict[str, Any] = {"step": model.step} if model.step else {}
    if notes := model.run.get("notes"):
        known["notes"] = list(notes)
    if seen := model.run.get("examples_seen"):
        known["examples_seen"] = int(seen)
    settings, side = model.module.config, model.image_size
    pixels = {
        "resize": f"shorter side to {side}, Pillow's bicubic",
        "crop": f"centre {side} × {side}",
    }
    if settings.image_resize == "squash":
        pixels = {"resize": f"both sides to {side}, Pillow's bicubic", "crop": "none"}
    return EvaluatedModel(
        embedder=model.embedder(api.LARGEST_BATCH * batch_shards(model.mesh)),
        tokenizer=model.tokenizer,
        image_size=side,
        mesh=model.mesh,
        variables=model.variables,
        logit_scale=model.logit_scale,
        name=name if name in zoo.MODELS else os.path.basename(path.rstrip("/")),
        weights={"id": weights_id(model.variables), "path": path, **known},
        preprocessing={
            **pixels,
            "mean": list(settings.image_mean),
            "deviation": list(settings.image_std),
        },
        precision={
            "towers": str(model.config.model.dtype),
            "similarities": "float32",
            "platform": jax.default_backend(),
        },
    )


def _check(records: list[Record], *, folder: str) -> list[Record]:
    """The records; DataError where a set cannot be used, or nothing was measured: exit code 65."""
    failed = [record for record in records if record.status == "failed"]
    if failed:
        raise DataError(
            f"{len(failed)} of {counted(len(records), 'set')} cannot be used, first"
            f" {failed[0].name}: {failed[0].message} (the others are in {folder})"
        )
    if not any(record.measurements for record in records):
        are = "the only set is" if len(records) == 1 else f"all {len(records)} sets are"
        raise DataError(f"{are} missing, first {records[0].name}: {records[0].message}")
    return records
