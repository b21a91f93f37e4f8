"""What each option does to quickstart: recall, speed and memory in one table; for tests/README.md.

    JAX_PLATFORMS=cpu python tests/bench/options_table.py --steps 1400

Every row is the same run with one change. R@1 is the mean of both directions on held-out scenes at
the last step; CPU-seconds are the whole program's, compilation, evaluations and saves included, so
that they hold beside other programs; memory is what the step needs by the compiler, and of it the
state. Rows that --output holds already are kept, so that it can be stopped and gone on with. The
last line is JSON.
"""

import argparse
import json
import pathlib
import re
import resource
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[2]
TEXT = "--config.optimizer.bfloat16_weights=('text/.*',)"
MOMENTS = "--config.optimizer.moments_dtype=bfloat16"
STAGES = ["--config=tests/bench/options_table.py", "--config.stages.first.until={two_thirds} steps"]
OPTIONS = {
    "baseline": [],
    "bfloat16 moments": [MOMENTS],
    "bfloat16 text weights": [TEXT],
    "both": [MOMENTS, TEXT],
    "EMA 0.99": ["--config.ema_decay=0.99"],
    "patch dropout 0.5": ["--config.patch_dropout=0.5"],
    "patch dropout 0.5 for two thirds": [*STAGES, "--config.stages.first.patch_dropout=0.5"],
    "24 pixels for two thirds": [*STAGES, "--config.stages.first.image_size=24"],
    "4 micro-batches": ["--config.micro_batches=4"],
    "Lion": ["--config.optimizer.name=lion", "--config.optimizer.learning_rate=3e-4"],
    "Adafactor": ["--config.optimizer.name=adafactor"],
    "Muon": ["--config.optimizer.name=muon"],
    "layer decay 0.9": ["--config.optimizer.layer_decay=0.9"],
    "rsqrt, cool-down": [
        "--config.schedule.name=rsqrt",
        "--config.schedule.cooldown={third} steps",
    ],
}
WAYS = ("image_to_text", "text_to_image")


def get_config():
    """Quickstart with a first stage, for the rows that change it."""
    sys.path.insert(0, str(ROOT / "configs"))
    import quickstart

    from clipjax import config

    c = quickstart.get_config()
    c.stages.first = config.stage("1 steps")
    return c


def measure(changes, *, steps):
    """A row of the table."""
    lengths = {"third": steps // 3, "two_thirds": 2 * steps // 3}
    flags = [*(flag.format(**lengths) for flag in changes), f"--config.total={steps} steps"]
    if not any(flag.startswith("--config=") for flag in flags):
        flags.insert(0, "--config=configs/quickstart.py")
    with tempfile.TemporaryDirectory() as folder:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "clipjax.main", f"--workdir={folder}/run", *flags]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}{done.stdout[-2000:]}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        text = pathlib.Path(folder, "run", "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    recalls = [[x[key] for x in lines if key in x][-1] for key in map(RECALL.format, WAYS)]
    memory, state = re.findall(r"plan +(\S+ \S+) .*state (\S+ \S+), batch", done.stdout)[-1]
    return {
        "recall_at_1": sum(recalls) / 2,
        "examples": max(x.get("examples_seen", 0) for x in lines),
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "memory": memory,
        "state": state,
    }


RECALL = "eval/held_out/{}_recall_at_1"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=1400)
    parser.add_argument("--output", default="/tmp/options_table.json")
    parser.add_argument("--only", default="", help="a comma-separated list of rows")
    options = parser.parse_args()
    path = pathlib.Path(options.output)
    kept = json.loads(path.read_text()) if path.exists() else {}
    rows = kept.get("rows", {}) if kept.get("steps") == options.steps else {}
    for name, changes in OPTIONS.items():
        if name not in rows and (not options.only or name in options.only.split(",")):
            rows[name] = measure(changes, steps=options.steps)
            path.write_text(json.dumps({"steps": options.steps, "rows": rows}, indent=1))
            print(name, rows[name], file=sys.stderr, flush=True)
    print("| option | R@1 | examples a CPU-second | step's memory | of it state |")
    print("|---|---|---|---|---|")
    base = rows.get("baseline")
    for name, row in rows.items():
        speed = row["examples"] / row["cpu_seconds"]
        share = f" ({speed * base['cpu_seconds'] / base['examples']:.2f} ×)" if base else ""
        print(
            f"| {name} | {row['recall_at_1']:.1%} | {speed:.0f}{share} | {row['memory']}"
            f" | {row['state']} |"
        )
    print(json.dumps({"steps": options.steps, "rows": rows}))


if __name__ == "__main__":
    main()
