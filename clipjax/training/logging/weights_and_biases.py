"""The same metrics at Weights & Biases, for `metric_writer`; their outage never ends a run.

The key is read by wandb itself from WANDB_API_KEY or its login file. `WANDB_MODE=offline` writes to
`WORKDIR/wandb`, to be sent later with `wandb sync`. Of the machine and the command line nothing is
sent: arguments may hold addresses that give access.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from typing import Any

from absl import logging

from clipjax.common.exits import ConfigError


class WeightsAndBiases:
    """One run, under the same id at every start of the same work directory.

    Args:
      project: of Weights & Biases.
      workdir: of the run.
      config: what is stored with it, without secrets.

    Raises:
      ConfigError: wandb is not installed, or there is no key.
    """

    def __init__(self, project: str, *, workdir: str, config: Mapping[str, Any]) -> None:
        try:
            import wandb
            import wandb.errors
        except ImportError as error:
            raise ConfigError(
                f"config.wandb={project}: wandb is not installed; pip install 'clipjax[wandb]'"
            ) from error
        name = os.path.basename(workdir.rstrip("/"))
        self.run: Any = None
        try:
            self.run = wandb.init(
                project=project,
                name=name,
                id=run_id(workdir),
                config=dict(config),
                resume="allow",
                dir=None if "://" in workdir else workdir,
                settings=wandb.Settings(
                    x_disable_meta=True, disable_git=True, save_code=False, console="off"
                ),
            )
        except wandb.errors.UsageError as error:
            raise ConfigError(
                f"config.wandb={project}: {' '.join(str(error).split())[:200]}; set WANDB_API_KEY,"
                " or WANDB_MODE=offline"
            ) from error
        except Exception as error:  # their outage is none of ours
            self._give_up(error)

    def log(self, metrics: Mapping[str, Any], *, step: int) -> None:
        """Metrics of a step; what a resumed run trains again is there already, and ignored."""
        if self.run is not None:
            try:
                self.run.log(dict(metrics), step=step)
            except Exception as error:
                self._give_up(error)

    def close(self) -> None:
        """Send what is left."""
        if self.run is not None:
            try:
                self.run.finish()
            except Exception as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        reason = " ".join(str(error).split())[:200]
        logging.warning("Weights & Biases: %s; going on without, metrics.jsonl has all", reason)
        self.run = None


def run_id(workdir: str) -> str:
    """The folder's name, with a hash of where it lies: another folder is another run."""
    path = workdir.rstrip("/") if "://" in workdir else os.path.realpath(workdir)
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", os.path.basename(path))[:80]
    return f"{name}-{hashlib.blake2b(path.encode(), digest_size=4).hexdigest()}"
