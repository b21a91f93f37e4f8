"""Where metrics go: `metrics.jsonl` always, TensorBoard files, Weights & Biases if asked.

Only the lead process writes. A line of `metrics.jsonl` is one step's own values. A run that was
killed may have left half a line: it is cut off when the file is opened again. Steps trained
again after a kill are written again, with the same values.
"""

import json
import logging
import os
from collections.abc import Mapping
from typing import Any

from clipjax.common import files
from clipjax.common.exits import CleanExit
from clipjax.parallel import distributed
from clipjax.training.logging import tensorboard
from clipjax.training.logging.appended_file import AppendedFile
from clipjax.training.logging.weights_and_biases import WeightsAndBiases

log = logging.getLogger(__name__)


class MetricWriter:
    """Writes metrics of one run; close it, or lose the last lines of a remote run.

    Raises:
      ConfigError, WriteError: metrics.jsonl cannot be opened. Without TensorBoard's files it can.
    """

    def __init__(self, workdir: str, *, config: Mapping[str, Any], wandb_project: str = "") -> None:
        folder = f"{workdir.rstrip('/')}/tensorboard"
        lines = f"{workdir.rstrip('/')}/metrics.jsonl"
        if not files.is_remote(workdir):
            with files.errors(lines):
                cut_torn_line(lines)
        self.lines = AppendedFile(lines)
        self.events: AppendedFile | None = None
        try:
            if not files.is_remote(workdir):
                files.make_folder(folder)
            self.events = AppendedFile(tensorboard.path(folder))
            self.events.append(tensorboard.head())
        except CleanExit as error:
            log.warning("%s; training goes on without TensorBoard", error)
        self.wandb = (
            WeightsAndBiases(wandb_project, workdir=workdir, config=config)
            if wandb_project
            else None
        )

    @property
    def local(self) -> str:
        """Path of the local `metrics.jsonl`, flushed."""
        return self.lines.local

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """One line: `step` and the metrics, plain numbers."""
        self.lines.append((json.dumps({"step": step, **metrics}) + "\n").encode())
        numbers = {name: v for name, v in metrics.items() if isinstance(v, int | float)}
        if self.events is not None:
            self.events.append(tensorboard.scalars(step, numbers))
        if self.wandb is not None:
            self.wandb.log(metrics, step=step)

    def sync(self) -> None:
        """Bring what was written to a remote work directory, before the checkpoint that follows."""
        self.lines.sync()

    def evaluated(self, step: int | None = None) -> set[str]:
        """Names of the evaluators that have figures of this step, by default of any."""
        with open(self.local, encoding="utf-8") as file:
            lines = [json.loads(line) for line in file if '"eval/' in line]
        lines = [line for line in lines if step in (None, line["step"])]
        names = {
            (number, *key.split("/")[1:])
            for number, line in enumerate(lines)
            for key in line
            if key.startswith("eval/")
        }
        return {name for number, name, *_ in names if (number, name, "failed") not in names}

    def last_step(self) -> int:
        """The newest step that has a line; 0 without lines."""
        with open(self.local, encoding="utf-8") as file:
            return max((json.loads(line)["step"] for line in file), default=0)

    def close(self) -> None:
        """Flush and close everything."""
        self.lines.close()
        if self.events is not None:
            self.events.close()
        if self.wandb is not None:
            self.wandb.close()


def evaluated_before(writer: MetricWriter | None, *, step: int | None = None) -> set[str]:
    """Names of the evaluators with figures of this step, by default of any, on all processes; a
    collective."""
    names = ",".join(sorted(writer.evaluated(step))) if writer is not None else ""
    return set(distributed.from_lead(names.encode()).decode().split(","))


def last_step(writer: MetricWriter | None) -> int:
    """The newest step in the log, on all processes; a collective."""
    step = writer.last_step() if writer is not None else 0
    return int(distributed.from_lead(str(step).encode()))


def cut_torn_line(path: str) -> None:
    """Cut a local file back to its last whole line; a missing file stays missing."""
    if not os.path.exists(path):
        return
    with files.open_file(path, "rb+") as file:
        content = file.read()
        end = content.rfind(b"\n") + 1
        if end != len(content):
            file.truncate(end)
