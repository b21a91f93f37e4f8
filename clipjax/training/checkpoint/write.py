"""Checkpoints of a run, through orbax: asynchronous saves, what is kept, restore onto any mesh.

A step's folder holds `state` (the TrainState) and `run` (JSON: step, examples seen, config, data
fingerprint, tokenizer files, evaluations), so that one folder is usable alone. `run` also holds the
digest of every array and one of itself, compared at each restore. The training loop decides when to
save; this module decides what stays.
"""

import functools
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from clipjax.common import files, trees
from clipjax.common.exits import CheckpointError, ConfigError, RemoteError
from clipjax.parallel import distributed
from clipjax.training.checkpoint import digest
from clipjax.training.checkpoint import manage as checkpoint_manager
from clipjax.training.checkpoint.errors import failed

FOLDER = "checkpoints"
DIGESTS, HASH = "digests", "hash"  # keys of the JSON: of each array, of the JSON itself


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

    Raises:
      CheckpointError: opened for writing, and the store fails.
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
        checkpoint_manager.keep_quiet()
        # orbax takes no relative path, and says so only when a save has failed in the background.
        absolute = workdir if "://" in workdir else os.path.abspath(workdir)
        self.directory = epath.Path(absolute) / FOLDER
        self._open = functools.partial(
            checkpoint_manager.open_manager,
            self.directory,
            keep=checkpoint_manager.preservation(
                keep_last=keep_last,
                keep_every=keep_every,
                best_metric=best_metric,
                best_mode=best_mode,
            ),
            best_metric=best_metric,
            best_mode=best_mode,
            read_only=read_only,
        )
        self.opened = 0
        with files.errors(self.directory, what="read" if read_only else "made"):
            self.manager = self._open(opened=0)
        if not read_only:
            self.remove_unfinished()

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
        file_bytes: int | None = None,
    ) -> bool:
        """Start saving; returns once the arrays are copied. A step that exists is left as it is.

        Args:
          step: finished steps; all processes save the same one.
          state: sharded TrainState.
          run: JSON, see the module's docstring.
          metrics: of this step's evaluations, if there were any.
          file_bytes: of data files, which are put together in memory; default orbax's 2 GB.

        Raises:
          CheckpointError: this save could not start, or an earlier one failed in the background.
          RemoteError: an error that this process alone met on the way, where there are others.
        """
        # A non-finite metric would count as best, and a step without the metric has no rank.
        value = (metrics or {}).get(self.best_metric, math.nan)
        ranked = {self.best_metric: float(value)} if math.isfinite(value) else None
        there = step in self.manager.all_steps()
        if distributed.from_lead(b"yes" if there else b"no") == b"yes":
            return False
        if there:  # a network file system may list for one host alone what has been moved away
            self.manager.reload()
        # An agreed look first: a failure here ends the save on all processes; one inside orbax
        # would be known to the lead alone, with the others in a barrier.
        self._lead_does(
            lambda: checkpoint_manager.make_room(self.directory, step), what="saving", step=step
        )
        # orbax stores no checksum of values; these are compared at each restore.
        run = {**run, DIGESTS: digest.digest(state)}
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(state, ocdbt_target_data_file_size=file_bytes),
            run=ocp.args.JsonSave({**run, HASH: _hash(run)}),
        )
        try:
            return self.manager.save(step, args=items, metrics=ranked, force=True)
        except Exception as error:  # every cloud's package has its own
            problem = failed("saving", step, self.directory, error)
            if jax.process_count() > 1:
                # The others are in a collective of this save. Nothing to agree on: all start again.
                raise RemoteError(problem) from error
            raise CheckpointError(problem) from error

    def read_run(self, step: int) -> dict[str, Any]:
        """The JSON part of a step.

        Raises:
          CheckpointError: it is unreadable, or not what was saved.
        """
        try:
            run = dict(checkpoint_manager.read(self.manager, step, run=ocp.args.JsonRestore()))
        except Exception as error:  # of damaged files orbax raises any
            raise CheckpointError(failed("reading", step, self.directory, error)) from error
        if distributed.gather_sum(np.int64(run.pop(HASH, None) != _hash(run))):
            raise CheckpointError(
                f"step {step} in {self.directory}: damaged, its JSON is not what was saved"
            )
        return run

    def restore(self, step: int, abstract: Any) -> Any:
        """The state of a step, on the devices and in the shardings of `abstract`.

        Args:
          step: one of `steps()`.
          abstract: tree of jax.ShapeDtypeStruct with shardings; the mesh may differ from the
            one that saved.

        Raises:
          CheckpointError: files are unreadable, or values are not what was saved.
          ConfigError: names, shapes or dtypes differ from what was saved.
        """
        # Names, shapes and dtypes before values: a config that does not fit is no damage.
        wanted = self.read_run(step)[DIGESTS]
        _check_same(wanted, abstract, step=step)
        restore = ocp.checkpoint_utils.construct_restore_args(abstract)
        # All leaves are there, but older checkpoints have not every branch that may be empty.
        state_args = ocp.args.PyTreeRestore(
            item=abstract, restore_args=restore, partial_restore=True
        )
        try:
            state = checkpoint_manager.read(self.manager, step, state=state_args)
        except Exception as error:  # as above
            raise CheckpointError(failed("reading", step, self.directory, error)) from error
        for name, leaf in trees.named_leaves(state):
            if not isinstance(leaf, jax.Array):
                where = f"step {step} in {self.directory}"
                raise CheckpointError(f"{where}: damaged, its files tell nothing of {name}")
        check_digests(state, wanted=wanted, step=step, where=self.directory)
        return state

    def begin_again(self) -> None:
        """After a save that failed: clear away what it left, for new saves; a collective.

        Raises:
          CheckpointError: the store still fails, perhaps for this process alone; call it again.
        """
        self.opened += 1
        self.remove_unfinished()
        try:
            self.manager = self._open(opened=self.opened)
        except Exception as error:  # every cloud's package has its own
            latest = self.manager.latest_step() or 0
            message = failed("opening after", latest, self.directory, error)
            raise CheckpointError(message) from error

    def remove_unfinished(self) -> None:
        """Clear away what failed saves left, while none is under way; a collective.

        Raises:
          CheckpointError: the store fails; on all processes.
        """
        latest = self.manager.latest_step() or 0
        self._lead_does(
            lambda: checkpoint_manager.remove_unfinished(self.directory),
            what="clearing after",
            step=latest,
        )

    def _lead_does(self, action: Callable[[], Any], *, what: str, step: int) -> None:
        """Something with files; a CheckpointError on all processes if it fails."""
        problem, cause = "", None
        if distributed.is_lead():
            try:
                action()
            except Exception as error:  # every cloud's package has its own
                problem, cause = failed(what, step, self.directory, error), error
        problem = distributed.from_lead(problem.encode()).decode()
        if problem:
            raise CheckpointError(problem) from cause

    def put_aside(self, step: int, folder: Any) -> None:
        """Move a step to `folder`, which it makes; a collective. What lies there gives way."""
        if distributed.is_lead():
            files.move(self.directory / str(step), folder / str(step))
        distributed.from_lead(b"moved")
        self.manager.reload()

    def wait(self) -> None:
        """Block until saves in the background are on disk.

        Raises:
          CheckpointError: one failed; earlier steps are intact.
        """
        try:
            checkpoint_manager.waited(self.manager, opened=self.opened)
        except Exception as error:  # every cloud's package has its own
            latest = self.manager.latest_step() or 0
            raise CheckpointError(failed("saving after", latest, self.directory, error)) from error

    def close(self) -> None:
        """Wait, then let go of the directory."""
        self.wait()
        self.manager.close()


def _check_same(saved: Mapping[str, str], abstract: Any, *, step: int) -> None:
    """orbax casts dtypes without a word, and explains a missing name at length."""
    old = {name: text.split()[0] for name, text in saved.items()}
    new = {name: digest.kind(leaf) for name, leaf in trees.named_leaves(abstract)}
    for name in [*old, *new]:
        if old.get(name) != new.get(name):
            raise ConfigError(
                f"checkpoint step {step}: {name} is {old.get(name, 'absent')} there, but the config"
                f" makes {new.get(name, 'absent')}; use the config it was trained with"
            )


def check_digests(tree: Any, *, wanted: Mapping[str, str], step: int, where: Any) -> None:
    """Raise CheckpointError if an array of the tree is not what was saved."""
    if names := digest.differing(digest.digest(tree), wanted):
        raise CheckpointError(
            f"step {step} in {where}: damaged, {len(names)} of {len(wanted)} arrays are not what"
            f" was saved, first {names[0]}"
        )


def _hash(run: Mapping[str, Any]) -> str:
    text = json.dumps(run, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
