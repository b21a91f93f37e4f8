"""The same run on other meshes, devices and processes: same records, equal losses.

Wide enough that parameters are really split: a layer below `sharding.SMALL` elements is not.
"""

import shutil
import signal

import pytest

from clipjax.common import exits
from tests import processes, tiny

STEPS = 50
ARGUMENTS = (
    "--config=tests/tiny.py",
    f"--config.total={STEPS} steps",
    "--config.checkpoint.every=1000 steps",
    *("--config.model.vision.width=128", "--config.model.vision.head_width=32"),
    *("--config.model.text.width=128", "--config.model.text.heads=4"),
)


ZERO_1 = ("--config.sharding_rules=(('params/.*', 'replicate'),)",)  # only moments are split


def run(workdir, *arguments, count: int, devices: int) -> dict[int, dict]:
    """The lines of a run on `count` processes of `devices` each."""
    started = processes.start_joined(
        *ARGUMENTS, *arguments, f"--workdir={workdir}", count=count, devices=devices
    )
    codes = [processes.finish(process) for process in started]
    assert codes == [exits.DONE] * count, "\n".join(map(processes.output, started))
    return tiny.values(workdir)


def compare(found, wanted, *, steps: int = STEPS, most: float = 2e-5):
    """Records are equal, losses to `most` of themselves."""
    assert sorted(found) == sorted(wanted) == list(range(1, steps + 1))
    worst = 0.0
    for step in found:
        assert found[step]["data/records_hash"] == wanted[step]["data/records_hash"]
        a, b = (values[step]["train/loss"] for values in (found, wanted))
        worst = max(worst, abs(a - b) / abs(b))
    print(f"largest relative difference of the loss: {worst:.1e}")
    assert worst <= most


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    return run(tmp_path_factory.mktemp("runs") / "one", count=1, devices=1)


def mesh(*sizes: int) -> tuple[str, ...]:
    """The options for a mesh of so many devices along data, fsdp and tensor."""
    return tuple(
        f"--config.mesh.{axis}={size}"
        for axis, size in zip(("data", "fsdp", "tensor"), sizes, strict=True)
    )


@pytest.mark.parametrize(
    ("devices", "sizes", "options"),
    [
        pytest.param(2, (1, 2, 1), (), marks=pytest.mark.long),
        pytest.param(4, (4, 1, 1), (), marks=pytest.mark.slow),
        pytest.param(4, (1, 4, 1), (), marks=pytest.mark.slow),
        pytest.param(4, (1, 2, 2), (), marks=pytest.mark.slow),
        pytest.param(4, (1, 4, 1), ZERO_1, marks=pytest.mark.slow),
        pytest.param(8, (8, 1, 1), (), marks=pytest.mark.slow),
        pytest.param(8, (1, 8, 1), (), marks=pytest.mark.slow),
        pytest.param(8, (1, 8, 1), ZERO_1, marks=pytest.mark.slow),
        (8, (2, 2, 2), ()),
    ],
    ids=str,
)
def test_meshes(one_device, tmp_path, devices, sizes, options):
    """Data-parallel, fully sharded, also with tensors split, and ZeRO-1."""
    found = run(tmp_path / "run", *mesh(*sizes), *options, count=1, devices=devices)
    compare(found, one_device)


@pytest.mark.multihost
def test_one_two_and_four_processes_of_four_devices(tmp_path):
    """A hundred steps; no more than the order of sums over processes could differ."""
    long = "--config.total=100 steps"
    one = run(tmp_path / "1", long, count=1, devices=4)
    for count in (2, 4):
        found = run(tmp_path / str(count), long, count=count, devices=4 // count)
        compare(found, one, steps=100, most=1e-5)


@pytest.mark.multihost
@pytest.mark.parametrize(
    ("count", "devices", "sizes"),
    [(2, 1, (1, 2, 1)), (2, 4, (2, 2, 2)), (4, 1, (2, 2, 1))],
    ids=str,
)
def test_processes(one_device, tmp_path, count, devices, sizes):
    compare(run(tmp_path / "run", *mesh(*sizes), count=count, devices=devices), one_device)


@pytest.mark.multihost
@pytest.mark.parametrize(("count", "devices"), [(2, 2), pytest.param(4, 2, marks=pytest.mark.slow)])
def test_processes_of_two_devices_and_their_checkpoint_elsewhere(
    one_device, tmp_path, count, devices
):
    """As on one device; the checkpoint of step 20 goes on on 1 × 1 and on 2 × 4 devices.

    A run compares the digest of every array it restores with what was saved, so that one which
    starts has bit-equal state.
    """
    workdir = tmp_path / "run"
    group = processes.start_joined(
        *(*ARGUMENTS, "--config.checkpoint.every=20 steps", f"--workdir={workdir}"),
        count=count,
        devices=devices,
    )
    codes = [processes.finish(process) for process in group]
    assert codes == [exits.DONE] * count, "\n".join(map(processes.output, group))
    compare(tiny.values(workdir), one_device)
    for step in (50, 40):
        shutil.rmtree(workdir / "checkpoints" / str(step))
    lines = (workdir / "metrics.jsonl").read_text().splitlines(keepends=True)
    (workdir / "metrics.jsonl").write_text("".join(lines[:20]))
    for other in ((1, 1), (2, 4)):
        copy = tmp_path / f"on_{other[0]}_x_{other[1]}"
        shutil.copytree(workdir, copy)
        compare(run(copy, count=other[0], devices=other[1]), one_device)


@pytest.mark.multihost
def test_restarts_on_other_numbers_of_processes_and_workers(one_device, tmp_path):
    """4 → 2 → 1 → 4 processes, 0, 2 and 4 loader workers: the records and losses of one device."""
    workdir = tmp_path / "run"
    legs = ((4, 0, 10), (2, 2, 20), (1, 4, 30))
    for count, workers, until in legs:
        group = processes.start_joined(
            *(*ARGUMENTS, f"--workdir={workdir}", f"--config.data.num_workers={workers}"),
            count=count,
            devices=8 // count,
        )
        processes.wait_for_lines(group[0], workdir / "metrics.jsonl", until)
        group[-1].send_signal(signal.SIGTERM)
        codes = [processes.finish(process) for process in group]
        assert codes == [exits.PREEMPTED] * count, "\n".join(map(processes.output, group))
    compare(run(workdir, "--config.data.num_workers=2", count=4, devices=2), one_device)
