"""orbax's manager as clipjax uses it: which steps stay, and what fails on one process alone.

A read that fails on one is told to all. A process whose part of a save has failed comes to orbax's
next barrier with the error in hand, and the others wait at an earlier one until a timeout of 20
minutes. Here it leaves a notice instead; `waited` reads it. Afterwards all of them open a new
manager: the old one's threads may still wait. Used by `training.checkpoint`.
"""

import dataclasses
import json
import logging as standard_logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from orbax.checkpoint import checkpoint_managers as managers

from clipjax.common import files
from clipjax.parallel import distributed, messages

UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of a folder that is being saved
TRIES = 5  # to remove it
COMMITTED = "commit_success.txt"  # in a finished step's folder where folders cannot be renamed
RANKS_NOTHING = "Requested `tracked_metric`; did not provide metrics."  # of each save unevaluated
POLL_SECONDS = 0.05


def preservation(
    *, keep_last: int, keep_every: int, best_metric: str, best_mode: str
) -> managers.AnyPreservationPolicy:
    """Which steps stay; arguments as `training.checkpoint.Checkpoints`."""
    keep: list[Any] = [managers.LatestN(keep_last)]
    if keep_every:
        keep.append(managers.EveryNSteps(keep_every))
    if best_metric:
        keep.append(
            managers.BestN(
                get_metric_fn=lambda metrics: metrics[best_metric],
                reverse=best_mode == "min",
                n=1,
                keep_checkpoints_without_metrics=False,
            )
        )
    return managers.AnyPreservationPolicy(keep)


def open_manager(
    directory: epath.Path,
    *,
    keep: managers.AnyPreservationPolicy,
    best_metric: str,
    best_mode: str,
    read_only: bool,
    opened: int,
) -> ocp.CheckpointManager:
    """A manager of `directory`; a collective.

    Args:
      opened: how many managers this program had before it; only the first one makes the folder.
    """
    best: dict[str, Any] = {}
    if best_metric:
        # Without best_fn orbax stores no metrics, and the best step is forgotten on reopening.
        best = {"best_fn": lambda metrics: metrics[best_metric], "best_mode": best_mode}
        if distributed.is_lead() and not read_only and not opened:
            _forget_damaged_metrics(directory)
        distributed.from_lead(b"looked through")
    manager = ocp.CheckpointManager(
        directory,
        item_handlers={
            "state": _answering(ocp.PyTreeCheckpointHandler()),
            "run": _answering(ocp.JsonCheckpointHandler()),
        },
        options=ocp.CheckpointManagerOptions(
            save_decision_policy=managers.FixedIntervalPolicy(1),  # the loop decides
            preservation_policy=keep,
            read_only=read_only,
            create=not read_only and not opened,
            **_no_looks(),
            cleanup_tmp_directories=False,  # it tells only the lead; `remove_unfinished` does it
            enable_async_checkpointing=True,
            async_options=ocp.AsyncOptions(barrier_sync_fn=_barrier(opened)),
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                barrier_sync_key_prefix=f"clipjax{opened}"
            ),
            **best,
        ),
    )
    # orbax polls for preemption at each save, by the step; the training loop polls by its own
    # count. A notice between two counts gets a meeting point that nobody reaches.
    manager.reached_preemption = lambda step: False
    return manager


def _forget_damaged_metrics(directory: epath.Path) -> None:
    """Remove the evaluations of steps where they are no JSON, which would keep orbax from opening
    any step; theirs then cannot be the best one."""
    for file in directory.glob("*/metrics/metrics"):
        try:
            json.loads(file.read_text())
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            logging.error("%s: unreadable, removed (%s); the step can be no best one", file, reason)
            files.remove(file.parent)


def _no_looks() -> dict[str, Any]:
    """Do not look at a save's place as it starts: only the lead would, and where that fails the
    others would wait for it. `make_room` has looked, and all were told."""
    name = "skip_sync_file_validations"  # orbax before 0.12 has none
    known = {field.name for field in dataclasses.fields(ocp.options.FileOptions)}
    return {"file_options": ocp.options.FileOptions(**{name: True})} if name in known else {}


class Unreadable:
    """Why an item could not be read; stands in its place."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _answering(handler: Any) -> Any:
    """The handler, which gives Unreadable instead of raising: orbax lets the processes meet after
    each restore, and one that raised would not come."""
    restore = handler.restore

    def restore_or_say_why(*args: Any, **settings: Any) -> Any:
        try:
            return restore(*args, **settings)
        except Exception as error:  # of damaged files orbax raises any
            return Unreadable(error)

    handler.restore = restore_or_say_why
    return handler


def read(manager: ocp.CheckpointManager, step: int, **item: Any) -> Any:
    """The one item of a step that is named, by its orbax arguments; a collective.

    Raises:
      Exception: of any kind, on every process, if any process cannot read it.
    """
    ((name, args),) = item.items()
    try:
        value = manager.restore(step, args=ocp.args.Composite(**{name: args}))[name]
    except Exception as error:
        value = Unreadable(error)
    if distributed.gather_sum(np.int64(isinstance(value, Unreadable))):
        if isinstance(value, Unreadable):
            raise value.error
        raise RuntimeError("another process cannot read it")
    return value


def waited(manager: ocp.CheckpointManager, *, opened: int) -> None:
    """Block until the save in the background is on disk; raises where it failed, on any process."""
    alone = jax.process_count() == 1
    while not alone and manager.is_saving_in_progress():
        if problem := messages.read(_key(opened)):
            raise OSError(problem)
        time.sleep(POLL_SECONDS)
    manager.wait_until_finished()


def make_room(directory: epath.Path, step: int) -> None:
    """Where a step is to be saved: nothing may lie there, and folders can be made.

    Of a folder that cannot be made orbax tells the lead alone, in the background; its other threads
    wait for it for minutes.
    """
    files.remove(directory / str(step))  # what a save left that failed
    if "://" not in str(directory):
        files.make_folder(directory / ".probe")
        files.remove(directory / ".probe")


def remove_unfinished(directory: epath.Path) -> None:
    """Delete what failed saves left behind, which would keep a full disk full; says what it cannot
    delete."""
    left = list(directory.glob(f"*{UNFINISHED}*"))
    if "://" in str(directory) and directory.exists():
        steps = [folder for folder in directory.iterdir() if folder.name.isdigit()]
        left += [folder for folder in steps if not (folder / COMMITTED).exists()]
    for folder in left:
        for _ in range(TRIES):
            try:
                files.remove(folder)
                break
            except Exception as error:  # for one, a writer that has not heard of the failure yet
                problem = error.__cause__ or error
                time.sleep(0.2)
        else:
            logging.warning("%s: left by a failed save, cannot be removed: %s", folder, problem)


def keep_quiet() -> None:
    """Leave out of the log what orbax repeats at each save, or each reader and writer of it."""
    sys.unraisablehook = _without_late_writers
    logging.get_absl_logger().addFilter(_is_news)
    asyncio_log = standard_logging.getLogger("asyncio")
    asyncio_log.addFilter(lambda record: "was never retrieved" not in record.getMessage())


def _is_news(record: standard_logging.LogRecord) -> bool:
    """Not what orbax repeats at each save, nor the traceback of a failed one from each of its
    threads: it is raised, too, and told in one line."""
    of_orbax = f"{os.sep}orbax{os.sep}" in record.pathname
    return record.msg != RANKS_NOTHING and not (of_orbax and record.exc_info)


def _without_late_writers(raised: Any) -> None:
    """After one failed write each of the others, hundreds, shows that nobody waits for it."""
    if str(raised.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(raised)


def _key(opened: int) -> str:
    return f"clipjax/save_failed/{opened}"


def _barrier(opened: int) -> Callable[..., None]:
    """What orbax's threads wait for each other with."""

    def barrier(*, key: str, timeout_ms: int) -> None:
        if jax.process_count() == 1:
            return
        error = sys.exc_info()[1]
        if error is not None:  # orbax ends its saves here, failed ones in a `finally`
            reason = " ".join(str(error).split())[:300]
            messages.post(_key(opened), f"on process {jax.process_index()}: {reason}")
            raise error
        ocp.multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)

    return barrier
