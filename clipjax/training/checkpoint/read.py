"""Reading checkpoints without a run: the model alone, and whether a step is what was saved."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from clipjax.common.exits import CheckpointError, ConfigError
from clipjax.training.checkpoint import manage as checkpoint_manager
from clipjax.training.checkpoint.errors import failed
from clipjax.training.checkpoint.write import DIGESTS, FOLDER, Checkpoints, check_digests


def restore_variables(
    path: str, *, step: int | None = None, average: bool = True
) -> tuple[dict[str, Any], dict[str, Any]]:
    """`params` and `batch_stats` (numpy, host) and run JSON of a run's work directory or of one
    step's folder; bfloat16 comes as float32.

    Args:
      path: `WORKDIR`, `WORKDIR/checkpoints` or `WORKDIR/checkpoints/STEP`.
      step: which; default the newest. Not with a step's folder.
      average: their moving average, of a run that has one (`config.ema_decay`); else the newest.

    Raises:
      ConfigError: there is no such checkpoint.
      CheckpointError: files are unreadable, or values are not what was saved.
    """
    reader, steps, named = _open(path)
    step = (steps[-1] if named is None else named) if step is None else step
    if step not in steps:
        raise ConfigError(f"{path}: has no step {step}; it has {', '.join(map(str, steps))}")
    if average and any(name.startswith("average/") for name in reader.read_run(step)[DIGESTS]):
        state, run = _restore(reader, step, only=("average",))
        variables = state["average"]
    else:
        variables, run = _restore(reader, step, only=("params", "batch_stats"))
    _widen(variables)
    return {"batch_stats": {}, **variables}, run


def _widen(tree: dict[str, Any]) -> None:
    """Make bfloat16 float32 in place, so that each array goes when its successor is there."""
    for key, value in tree.items():
        if isinstance(value, dict):
            _widen(value)
        elif value.dtype == jax.numpy.bfloat16:
            tree[key] = value.astype(np.float32)


def read_run(path: str) -> dict[str, Any]:
    """The run JSON of the newest step, or of the step that `path` names; errors as above."""
    reader, steps, named = _open(path)
    return reader.read_run(steps[-1] if named is None else named)


def steps(path: str) -> list[int]:
    """The steps of a run's work directory, ascending; ConfigError if there is none."""
    return _open(path)[1]


def verify(path: str, *, step: int) -> int:
    """Read all of a step, as a run would; returns the number of its arrays.

    Raises:
      CheckpointError: files are unreadable, or values are not what was saved.
    """
    reader, _, _ = _open(path)
    state, _ = _restore(reader, step)
    return len(jax.tree.leaves(state))


def _open(path: str) -> tuple[Checkpoints, list[int], int | None]:
    """(reader, steps, the step that `path` itself names)."""
    try:
        folder, named = epath.Path(path), None
    except KeyError as error:  # of a protocol that epath does not know
        raise ConfigError(f"{path}: is neither local nor gs://") from error
    if folder.name.isdigit() and (folder / "state").exists():
        folder, named = folder.parent, int(folder.name)
    elif (folder / FOLDER).exists():
        folder = folder / FOLDER
    inside = folder.iterdir() if folder.exists() and not folder.is_file() else ()
    steps = sorted(int(p.name) for p in inside if p.name.isdigit())
    if not steps:
        raise ConfigError(f"{path}: holds no clipjax checkpoint (looked for {FOLDER}/STEP)")
    with _quiet():  # orbax warns at length that it will not write
        return Checkpoints(str(folder.parent), read_only=True), steps, named


def is_run(path: str) -> bool:
    """Whether a local folder is a work directory or lies in one: a step, or its `checkpoints`."""
    folder = epath.Path(path)
    return any(folder.glob(f"{FOLDER}/[0-9]*")) or any(
        (step / "state").exists() for step in (folder, *folder.glob("[0-9]*"))
    )


def _restore(
    reader: Checkpoints, step: int, *, only: tuple[str, ...] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(state as numpy arrays, run JSON), checked; `only` the parts of the state that are named."""
    run = reader.read_run(step)
    try:
        saved = reader.manager.item_metadata(step)["state"].tree
        item = {
            key: jax.tree.map(lambda _: ocp.PLACEHOLDER, tree) if only and key not in only else tree
            for key, tree in saved.items()
        }
        to_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
        args = ocp.args.PyTreeRestore(item=item, restore_args=to_numpy)
        state = checkpoint_manager.read(reader.manager, step, state=args)
    except Exception as error:  # of damaged files orbax raises any
        raise CheckpointError(failed("reading", step, reader.directory, error)) from error
    state = {key: tree for key, tree in state.items() if not only or key in only}
    wanted = {
        name: value
        for name, value in run[DIGESTS].items()
        if not only or name.split("/")[0] in only
    }
    check_digests(state, wanted=wanted, step=step, where=reader.directory)
    return state, run


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)
