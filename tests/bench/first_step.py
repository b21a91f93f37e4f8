"""Times the start of a run, with an empty and with a warm compilation cache.

    JAX_PLATFORMS=cpu python tests/bench/first_step.py --config=configs/quickstart.py

Each start is `python -m clipjax.main` in a new process and a new work directory: the seconds from
its command to the first line of `metrics.jsonl`, one step, logged at every step, and the
CPU-seconds until then. `--help` is timed too. The last line is JSON with the median over rounds.
"""

import argparse
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

MAIN = [sys.executable, "-m", "clipjax.main"]
ROOT = pathlib.Path(__file__).parents[2]


def first_step(config, *, cache, workdir):
    """(seconds, CPU-seconds) from the command to the first logged step."""
    arguments = [f"--config={config}", f"--workdir={workdir}", "--config.log_every=1 steps"]
    began = time.monotonic()
    process = subprocess.Popen(
        [*MAIN, *arguments, f"--config.compilation_cache={cache}"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    metrics = workdir / "metrics.jsonl"
    try:
        while not (metrics.exists() and "train/loss" in metrics.read_text()):
            if process.poll() is not None:
                raise SystemExit(f"the run ended with {process.returncode}; try it by hand")
            time.sleep(0.02)
        return time.monotonic() - began, cpu_seconds(process.pid)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def cpu_seconds(pid):
    """User and system time of a process so far, all threads, without its children."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def help_seconds():
    began = time.monotonic()
    subprocess.run([*MAIN, "--help"], cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
    return time.monotonic() - began


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default="configs/quickstart.py")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    measured = {"cold": [], "warm": []}
    for round_ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for kind, rows in measured.items():
                workdir = pathlib.Path(folder) / kind
                rows.append(first_step(options.config, cache=f"{folder}/cache", workdir=workdir))
                print(f"round {round_} {kind}: {rows[-1][0]:.1f} s", file=sys.stderr)
    result = {"config": options.config, "rounds": options.rounds, "load": os.getloadavg()[0]}
    for kind, rows in measured.items():
        seconds, cpu = zip(*rows, strict=True)
        result[f"{kind}_seconds"] = round(statistics.median(seconds), 2)
        result[f"{kind}_cpu_seconds"] = round(statistics.median(cpu), 2)
    result["help_seconds"] = round(statistics.median(help_seconds() for _ in range(5)), 3)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
