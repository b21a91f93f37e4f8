"""The table of plans of tests/README.md: each model's own step, compiled for absent slices.

    python tests/bench/plan_table.py [--only=vitl14] [--json=FILE]

One row a plan, of Markdown, as `python -m clipjax.plan` prints them; a progress line on stderr. The
figures are the TPU compiler's estimates. Needs libtpu (`.[plan]`); about half an hour on 2 cores.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
# (config, topology, what differs from the config as it stands)
ROWS = (
    ("vitl14", "v5e-256", ()),
    ("vitl14", "v5e-256", ("--config.kernels=off", "--config.model.vision.remat=block")),
    ("vitl14", "v4-512", ()),
    ("vitl14", "v5p-512", ()),
    ("vitl14", "v6e-256", ()),
    ("vitl14_336", "v5e-256", ()),
    ("vitb16", "v5e-256", ()),
    ("vitb32", "v5e-256", ()),
    ("siglip_b16", "v5e-256", ()),
)
HEADER = "| config | slice | memory a chip | step | MFU, low to high | examples/s | chip-hours |"


def plan(config: str, topology: str, changes: tuple[str, ...]) -> dict:
    """What `clipjax.plan --json` writes."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "plan.json")
        command = [
            *(sys.executable, "-m", "clipjax.plan", f"--config=configs/{config}.py"),
            *(f"--topology={topology}", f"--json={file}", *changes),
        ]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if ended.returncode:
            raise SystemExit(ended.stdout + ended.stderr)
        return json.loads(file.read_text())


def row(config: str, topology: str, changes: tuple[str, ...], figures: dict) -> str:
    """One line of the table."""
    told = " ".join([config, *(change.removeprefix("--config.") for change in changes)])
    peak, available = (figures[f"hbm_{part}_bytes"] / 2**30 for part in ("peak", "available"))
    memory = f"{peak:.1f} of {available:.1f} GiB"
    if not figures["fits"]:
        return f"| {told} | {topology} | {memory} | does not fit | | | |"
    if figures["estimated_mfu"] is None:
        return f"| {told} | {topology} | {memory} | the compiler shows no cycles | | | |"
    mfu, low, high = (100 * figures[f"estimated_mfu{part}"] for part in ("", "_low", "_high"))
    return (
        f"| {told} | {topology} | {memory} | {figures['estimated_cycles'] / 1e6:,.0f} M cycles ="
        f" {figures['estimated_step_seconds']:.3f} s | {mfu:.1f} %, {low:.0f} to {high:.0f} |"
        f" {figures['examples_per_second']:,.0f} | {figures['chip_hours']:,.0f} |"
    )


def main() -> None:
    """Plan each row, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="configs whose names hold this")
    parser.add_argument("--json", default="", help="write all figures to this file")
    options = parser.parse_args()
    print(HEADER + "\n" + "|---" * (HEADER.count("|") - 1) + "|")
    every = []
    for config, topology, changes in ROWS:
        if options.only not in config:
            continue
        began = time.monotonic()
        figures = plan(config, topology, changes)
        every.append(figures | {"config": config, "changes": changes})
        print(row(config, topology, changes, figures), flush=True)
        print(f"{config} on {topology}: {time.monotonic() - began:.0f} s", file=sys.stderr)
        if options.json:
            pathlib.Path(options.json).write_text(json.dumps(every, indent=1))


if __name__ == "__main__":
    main()
