"""Train a CLIP: `python -m clipjax.main --config=configs/vitl14.py [--workdir=DIR]`.

Starting again with the same work directory resumes. Exit codes: `clipjax/common/exits.py`.
"""

import os
from typing import NoReturn

from absl import flags

from clipjax.common import cli, interrupts

CONFIG = cli.define_config_flag()
WORKDIR = cli.define_path(
    "workdir", None, "Where the run lives, local or gs://; default runs/<config file's name>."
)
ALLOW_CONFIG_CHANGE = flags.DEFINE_bool(
    "allow_config_change",
    False,
    "Go on although run-defining settings differ from the work directory's; it is recorded.",
)


def main() -> NoReturn:
    """Check the settings, then train; ends the process with the exit code."""
    from clipjax.config import check as config_check

    interrupts.leave_at_once()  # until there is something to save, see parallel/preemption.py
    config = cli.config(CONFIG)
    config_check.check(config)
    workdir = WORKDIR.value or os.path.join("runs", cli.config_name(CONFIG))

    from clipjax import train  # jax and its friends load here, after the cheap checks
    from clipjax.parallel import shutdown

    allow = ALLOW_CONFIG_CHANGE.value
    shutdown.exit_with(lambda: train.train(config, workdir=workdir, allow_config_change=allow))


if __name__ == "__main__":
    cli.run(main)
