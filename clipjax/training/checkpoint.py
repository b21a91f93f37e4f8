"""Checkpoints of a run, through orbax: asynchronous saves, what is kept, restore onto any mesh.

A step's folder holds `state` (the TrainState) and `run` (JSON: step, examples seen, config, data
fingerprint, tokenizer files, evaluations), so that one folder is usable alone. The training loop
decides when to save; this module decides what stays.
"""

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from orbax.checkpoint import checkpoint_managers as managers

from clipjax.common import trees
from clipjax.common.exits import CheckpointError, ConfigError
from clipjax.parallel import distributed

FOLDER = "checkpoints"
RANKS_NOTHING = "Requested `tracked_metric`; did not provide metrics."  # of each save unevaluated


class Checkpoints:
    """The checkpoints of one work directory.

    Args:
      workdir: the run's directory, which exists.
      keep_last: the newest so many are kept.
      keep_every: steps that are multiples of it are kept for good; 0 is off.
      best_metric: the checkpoint best by this metric is kept; "" is off.
      best_mode: "max" or "min".
      read_only: write and delete nothing. Anyone but the training program needs it: opening for
        writing removes unfinished saves, which may be another process's at work.
    """

    def __init__(
        self,
        workdir: str,
        *,
        keep_last: int = 3,
        keep_every: int = 0,
        best_metric: str = "",
        best_mode: str = "max",
        read_only: bool = False,
    ) -> None:
        self.best_metric = best_metric
        keep: list[Any] = [managers.LatestN(keep_last)]
        if keep_every:
            keep.append(managers.EveryNSteps(keep_every))
        best: dict[str, Any] = {}
        if best_metric:
            # Without best_fn orbax stores no metrics, and the best step is forgotten on reopening.
            value = lambda metrics: metrics[best_metric]  # noqa: E731
            best = {"best_fn": value, "best_mode": best_mode}
            keep.append(
                managers.BestN(
                    get_metric_fn=value,
                    reverse=best_mode == "min",
                    n=1,
                    keep_checkpoints_without_metrics=False,
                )
            )
        logging.get_absl_logger().addFilter(lambda record: record.msg != RANKS_NOTHING)
        # orbax takes no relative path, and says so only when a save has failed in the background.
        absolute = workdir if "://" in workdir else os.path.abspath(workdir)
        self.directory = epath.Path(absolute) / FOLDER
        self.manager = ocp.CheckpointManager(
            self.directory,
            item_handlers={
                "state": ocp.PyTreeCheckpointHandler(),
                "run": ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                save_decision_policy=managers.FixedIntervalPolicy(1),  # the loop decides
                preservation_policy=managers.AnyPreservationPolicy(keep),
                read_only=read_only,
                create=not read_only,
                cleanup_tmp_directories=not read_only,
                enable_async_checkpointing=True,
                **best,
            ),
        )
        # orbax polls for preemption at each save, by the step; the training loop polls by its own
        # count. A notice between two counts gets a meeting point that nobody reaches.
        self.manager.reached_preemption = lambda step: False

    def steps(self) -> list[int]:
        """Finished steps on disk, ascending."""
        return sorted(self.manager.all_steps())

    def latest(self) -> int | None:
        """The newest finished step, the lead process's view on all processes."""
        steps = self.steps()
        step = int(distributed.from_lead(str(steps[-1] if steps else -1).encode()))
        return None if step < 0 else step

    def save(
        self,
        step: int,
        state: Any,
        *,
        run: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> bool:
        """Start saving; returns once the arrays are copied. A step that exists is left as it is.

        Args:
          step: finished steps; all processes save the same one.
          state: sharded TrainState.
          run: JSON, see the module's docstring.
          metrics: of this step's evaluations, if there were any.

        Raises:
          CheckpointError: this save could not start, or an earlier one failed in the background.
        """
        # A non-finite metric would count as best, and a step without the metric has no rank.
        value = (metrics or {}).get(self.best_metric, math.nan)
        ranked = {self.best_metric: float(value)} if math.isfinite(value) else None
        try:
            if step in self.manager.all_steps():
                return False
            items = ocp.args.Composite(
                state=ocp.args.PyTreeSave(state), run=ocp.args.JsonSave(dict(run))
            )
            return self.manager.save(step, args=items, metrics=ranked, force=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(_failed("saving", step, self.directory, error)) from error

    def read_run(self, step: int) -> dict[str, Any]:
        """The JSON part of a step."""
        args = ocp.args.Composite(run=ocp.args.JsonRestore())
        try:
            return self.manager.restore(step, args=args)["run"]
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(_failed("reading", step, self.directory, error)) from error

    def restore(self, step: int, abstract: Any) -> Any:
        """The state of a step, on the devices and in the shardings of `abstract`.

        Args:
          step: one of `steps()`.
          abstract: tree of jax.ShapeDtypeStruct with shardings; the mesh may differ from the
            one that saved.

        Raises:
          CheckpointError: files are unreadable.
          ConfigError: names, shapes or dtypes differ from what was saved.
        """
        saved = self._metadata(step)
        _check_same(trees.named_leaves(saved.tree), trees.named_leaves(abstract), step=step)
        restore = ocp.checkpoint_utils.construct_restore_args(abstract)
        args = ocp.args.Composite(state=ocp.args.PyTreeRestore(item=abstract, restore_args=restore))
        try:
            return self.manager.restore(step, args=args)["state"]
        except (OSError, ValueError) as error:
            raise CheckpointError(_failed("reading", step, self.directory, error)) from error

    def _metadata(self, step: int) -> Any:
        """Names, shapes and dtypes of a step's state."""
        try:
            return self.manager.item_metadata(step)["state"]
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(_failed("reading", step, self.directory, error)) from error

    def wait(self) -> None:
        """Block until saves in the background are on disk.

        Raises:
          CheckpointError: one failed; earlier steps are intact.
        """
        try:
            self.manager.wait_until_finished()
        except (OSError, ValueError, RuntimeError) as error:
            latest = self.manager.latest_step() or 0
            raise CheckpointError(_failed("saving after", latest, self.directory, error)) from error

    def close(self) -> None:
        """Wait, then let go of the directory."""
        self.wait()
        self.manager.close()


def restore_params(path: str, *, step: int | None = None) -> tuple[Any, dict[str, Any]]:
    """Parameters (numpy, host) and run JSON of a run's work directory or of one step's folder.

    Args:
      path: `WORKDIR`, `WORKDIR/checkpoints` or `WORKDIR/checkpoints/STEP`.
      step: which; default the newest. Not with a step's folder.

    Raises:
      ConfigError: there is no such checkpoint.
      CheckpointError: files are unreadable.
    """
    folder = epath.Path(path)
    if folder.name.isdigit() and (folder / "state").exists():
        folder, step = folder.parent, int(folder.name)
    elif (folder / FOLDER).exists():
        folder = folder / FOLDER
    steps = (
        sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.exists() else []
    )
    if not steps:
        raise ConfigError(f"{path}: holds no clipjax checkpoint (looked for {FOLDER}/STEP)")
    step = steps[-1] if step is None else step
    if step not in steps:
        raise ConfigError(f"{path}: has no step {step}; it has {', '.join(map(str, steps))}")
    with _quiet():  # orbax warns at length that it will not write
        reader = Checkpoints(str(folder.parent), read_only=True)
    run = reader.read_run(step)
    saved = reader._metadata(step)
    item = {
        key: tree if key == "params" else jax.tree.map(lambda _: ocp.PLACEHOLDER, tree)
        for key, tree in saved.tree.items()
    }
    to_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
    args = ocp.args.Composite(state=ocp.args.PyTreeRestore(item=item, restore_args=to_numpy))
    try:
        return reader.manager.restore(step, args=args)["state"]["params"], run
    except (OSError, ValueError) as error:
        raise CheckpointError(_failed("reading", step, folder, error)) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _check_same(saved: list[Any], wanted: list[Any], *, step: int) -> None:
    """orbax casts dtypes without a word, and explains a missing name at length."""
    old = {name: (tuple(leaf.shape), str(np.dtype(leaf.dtype))) for name, leaf in saved}
    new = {name: (tuple(leaf.shape), str(np.dtype(leaf.dtype))) for name, leaf in wanted}
    for name in [*old, *new]:
        if old.get(name) != new.get(name):
            raise ConfigError(
                f"checkpoint step {step}: {name} is {_told(old.get(name))} there, but the config"
                f" makes {_told(new.get(name))}; use the config it was trained with"
            )


def _told(leaf: tuple[Any, str] | None) -> str:
    return "absent" if leaf is None else f"{leaf[1]}{list(leaf[0])}"


def _failed(what: str, step: int, directory: Any, error: Exception) -> str:
    reason = " ".join(str(error).split())[:300]
    return f"{what} step {step} in {directory}: {type(error).__name__}: {reason}"
