"""The first hundred steps of a small run, number by number, against a file in tests/golden.

JAX_PLATFORMS=cpu python tests/test_golden_losses.py    # write it anew, then read the diff

Whatever moves initial values, the order of data, crops, losses or the optimizer shows up here:
rows exactly, losses within what another compiler or CPU rounds otherwise.
"""

import json
import pathlib
import sys
import tempfile

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FILE = ROOT / "tests" / "golden" / "losses.json"


def losses(workdir) -> list[dict]:
    """Step, loss and hash of the records, of each of 100 steps on one device."""
    from tests import processes, tiny

    steps = ("--config.total=100 steps", "--config.checkpoint.every=100 steps")
    process = processes.start("--config=tests/tiny.py", f"--workdir={workdir}", *steps)
    assert processes.finish(process) == 0, processes.output(process)
    names = ("train/loss", "data/records_hash")
    return [
        {"step": step, **{name: values[name] for name in names}}
        for step, values in sorted(tiny.values(workdir).items())
    ]


@pytest.mark.long
def test_golden_losses_and_the_same_again(tmp_path):
    hint = "if this is meant, run: python tests/test_golden_losses.py"
    wanted, found = json.loads(FILE.read_text()), losses(tmp_path / "run")
    assert losses(tmp_path / "again") == found, "bit by bit, in a process of its own"
    assert [line["step"] for line in found] == list(range(1, 101))
    for old, new in zip(wanted, found, strict=True):
        step = old["step"]
        assert new["data/records_hash"] == old["data/records_hash"], f"step {step}: {hint}"
        # rounding grows with the steps, as between meshes
        tolerance = 1e-5 if step <= 10 else 1e-3
        difference = abs(new["train/loss"] / old["train/loss"] - 1)
        assert difference < tolerance, f"step {step}: {difference:.1e}; {hint}"


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT)]
    with tempfile.TemporaryDirectory() as folder:
        lines = [json.dumps(line) for line in losses(pathlib.Path(folder) / "run")]
    FILE.write_text("[\n" + ",\n".join(lines) + "\n]\n")
    print(FILE.relative_to(ROOT))
