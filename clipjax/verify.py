"""Are a run's checkpoints what was saved? Reads them all, trains nothing, changes nothing.

    python -m clipjax.verify --workdir=runs/quickstart

One line a step; leaves with 0 if all are whole, 74 if one is not.
"""

from absl import flags

from clipjax.common import cli, exits


def run(workdir: str) -> int:
    """Check every step of `workdir`; returns the exit code.

    Raises:
      ConfigError: there is no such run.
    """
    if not workdir:
        raise exits.ConfigError("say which run: --workdir=runs/quickstart")
    from clipjax.training.checkpoint import read as checkpoint_reader

    damaged = 0
    for step in checkpoint_reader.steps(workdir):
        try:
            arrays = checkpoint_reader.verify(workdir, step=step)
            print(f"step {step:,}: whole, {arrays:,} arrays", flush=True)
        except exits.CheckpointError as error:
            damaged += 1
            print(f"step {step:,}: {error}", flush=True)
    return exits.CHECKPOINT_IO if damaged else exits.DONE


if __name__ == "__main__":
    cli.define_path("workdir", "", "The run's folder, local or gs://.")
    cli.run(lambda: run(flags.FLAGS.workdir))
