"""Where metrics go: `metrics.jsonl` always, TensorBoard files, Weights & Biases if asked.

Only the lead process writes. A line of `metrics.jsonl` is one step's own values. A run that was
killed may have left half a line: it is cut off when the file is opened again. Steps trained
again after a kill are written again, with the same values.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

from etils import epath

from clipjax.parallel import distributed
from clipjax.training.weights_and_biases import WeightsAndBiases

UPLOAD_EVERY = 20  # lines between copies to a remote work directory, which cannot append


class MetricWriter:
    """Writes metrics of one run; close it, or lose the last lines of a remote run."""

    def __init__(self, workdir: str, *, config: Mapping[str, Any], wandb_project: str = "") -> None:
        from tensorboardX import SummaryWriter

        self.target = epath.Path(workdir) / "metrics.jsonl"
        self.remote = "://" in workdir
        self.unsent = 0
        if self.remote:
            import tempfile

            self.local = os.path.join(tempfile.mkdtemp(prefix="clipjax-"), "metrics.jsonl")
            if self.target.exists():
                self.target.copy(self.local)
        else:
            self.local = os.fspath(self.target)
        cut_torn_line(self.local)
        self.file = open(self.local, "a", encoding="utf-8")  # noqa: SIM115 - open for the run
        self.tensorboard = SummaryWriter(os.path.join(workdir, "tensorboard"), flush_secs=30)
        self.wandb = (
            WeightsAndBiases(wandb_project, workdir=workdir, config=config)
            if wandb_project
            else None
        )

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """One line: `step` and the metrics, plain numbers."""
        self.file.write(json.dumps({"step": step, **metrics}) + "\n")
        self.file.flush()
        for name, value in metrics.items():
            if isinstance(value, int | float):
                self.tensorboard.add_scalar(name, value, step)
        if self.wandb is not None:
            self.wandb.log(metrics, step=step)
        self.unsent += 1
        if self.remote and self.unsent >= UPLOAD_EVERY:
            self._upload()

    def evaluated(self, step: int) -> set[str]:
        """Names of the evaluators that have a line for this step."""
        self.file.flush()
        with open(self.local, encoding="utf-8") as file:
            lines = [json.loads(line) for line in file if '"eval/' in line]
        names = [name for line in lines if line["step"] == step for name in line]
        return {name.split("/")[1] for name in names if name.startswith("eval/")}

    def last_step(self) -> int:
        """The newest step that has a line; 0 without lines."""
        self.file.flush()
        with open(self.local, encoding="utf-8") as file:
            return max((json.loads(line)["step"] for line in file), default=0)

    def _upload(self) -> None:
        epath.Path(self.local).copy(self.target, overwrite=True)
        self.unsent = 0

    def close(self) -> None:
        """Flush and close everything."""
        self.file.close()
        if self.remote:
            self._upload()
        self.tensorboard.close()
        if self.wandb is not None:
            self.wandb.close()


def evaluated_before(writer: MetricWriter | None, *, step: int) -> set[str]:
    """Names of the evaluators with a line for this step, on all processes; a collective."""
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
    with open(path, "rb+") as file:
        content = file.read()
        end = content.rfind(b"\n") + 1
        if end != len(content):
            file.truncate(end)
