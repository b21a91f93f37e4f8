"""How fast runs learn, one beside the other: a table, and a picture like the paper's Figure 2.

    python -m clipjax.compare --workdir=runs/a --workdir=runs/b \
        --metric=eval/objects/top1_accuracy --output=compared.png

The metric rises as a model gets better. `to the weakest's end` are the images after which a run is
as good as the weakest one at its end, `times as fast` how many times fewer that is.
"""

import os
from collections.abc import Sequence

from absl import flags

from clipjax.common import cli, files
from clipjax.common.exits import ConfigError
from clipjax.common.registry import closest


def compare(workdirs: Sequence[str], *, metric: str, output: str) -> str:
    """Draw the picture to `output` ("" draws none); returns the table.

    Args:
      workdirs: of runs, local or remote; they are called by their last folder.
      metric: of `metrics.jsonl`.

    Raises:
      ConfigError: a run has not measured it, it is a loss, two runs have one name, or there are
        none.
    """
    from clipjax.pictures import canvas, history, table
    from clipjax.pictures.charts import compared

    ending = os.path.splitext(output)[1].lower()
    if output and ending not in canvas.ENDINGS:
        raise ConfigError(f"--output={output}: end it in one of {', '.join(canvas.ENDINGS)}")
    if output:
        files.check_writable(output, setting="--output")
    if metric.endswith("loss"):
        raise ConfigError(f"--metric={metric}: falls as a model learns; name one that rises")
    names = _names(workdirs)
    runs = {}
    for name, workdir in zip(names, workdirs, strict=True):
        read = history.read(f"{workdir.rstrip('/')}/metrics.jsonl")
        runs[name] = compared.by_examples(read, metric)
        if not runs[name][0]:
            raise ConfigError(f"--metric={metric}: {workdir} has none{closest(metric, read)}")
    weakest = min(values[-1] for _, values in runs.values())
    until = {name: compared.examples_until(series, weakest) for name, series in runs.items()}
    slowest = max(filter(None, until.values()), default=0.0)
    rows = [["", metric.split("/")[-1], "images", "to the weakest's end", "times as fast"]]
    for name, (examples, values) in runs.items():
        took = until[name]
        times = (f"{took:,.0f}", f"{slowest / took:.1f}") if took else ("–", "–")
        rows.append([name, f"{values[-1]:.4g}", f"{examples[-1]:,}", *times])
    if output:
        files.write(output, canvas.encoded(compared.draw(runs, metric=metric), ending=ending))
    return table.aligned(rows)


def _names(workdirs: Sequence[str]) -> list[str]:
    names = [os.path.basename(workdir.rstrip("/")) for workdir in workdirs]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"--workdir={','.join(workdirs)}: name each run once, by its last folder")
    return names


def main() -> None:
    """`compare` with the flags; prints the table."""
    values = flags.FLAGS
    print(compare(values.workdir, metric=values.metric, output=values.output))
    if values.output:
        print(f"\n{values.output}")


if __name__ == "__main__":
    cli.define_paths("workdir", "A run's folder, local or gs://; once for each.")
    flags.DEFINE_string("metric", "eval/objects/top1_accuracy", "What to compare.")
    cli.define_path("output", "compared.png", 'The picture; "" draws none.')
    cli.run(main)
