"""When one process of a run must end, all end, with the same code, at once, leaving no child."""

import json
import signal
import subprocess
import time

import pytest

from clipjax.common import exits
from tests import processes

pytestmark = pytest.mark.multihost
ARGUMENTS = (
    "--config=tests/tiny.py",
    "--config.total=5000 steps",
    "--config.checkpoint.every=5000 steps",
)


def started(workdir, *arguments, count=2):
    group = processes.start_joined(
        *ARGUMENTS, *arguments, f"--workdir={workdir}", count=count, devices=1
    )
    processes.wait_for_lines(group[0], workdir / "metrics.jsonl", 3)
    return group


def descendants(process) -> list[str]:
    """What still runs a second later of all that the process started."""
    time.sleep(1.0)
    listed = subprocess.run(
        ["ps", "-o", "stat=,pid=,args=", "--sid", str(process.pid)], capture_output=True, text=True
    ).stdout
    return [line for line in listed.splitlines() if not line.startswith("Z")]


def seconds_until_end(group) -> float:
    began = time.monotonic()
    for process in group:
        processes.finish(process, timeout=60)
    return time.monotonic() - began


def test_the_death_of_a_peer_ends_the_others(tmp_path):
    group = started(tmp_path / "run", "--config.data.num_workers=1")
    processes.kill(group[1])
    took = seconds_until_end(group)
    assert group[0].returncode == exits.PEER_FAILURE, processes.output(group[0])
    print(f"a survivor of its peer ended after {took:.1f} s")
    assert took < 3.0  # 1.5 where cores are free; 1 s of it is the coordinator's own wait
    assert descendants(group[0]) == []


def test_the_death_of_the_coordinator_ends_the_others(tmp_path):
    group = started(tmp_path / "run")
    processes.kill(group[0])
    took = seconds_until_end(group)
    print(f"a survivor of the coordinator ended after {took:.1f} s")
    assert took < 2.0
    assert group[1].returncode in (exits.PEER_FAILURE, -signal.SIGABRT)


@pytest.mark.parametrize("host", [0, 1])
def test_bad_data_on_one_host_end_all_with_the_code_for_it(tmp_path, host):
    """Only one host reads the broken records: the other hears of it."""
    config = tmp_path / "config.py"
    config.write_text(BAD_DATA.format(root=json.dumps(str(processes.ROOT)), host=host))
    group = processes.start_joined(
        f"--config={config}", f"--workdir={tmp_path / 'run'}", count=2, devices=1
    )
    codes = [processes.finish(process, timeout=120) for process in group]
    told = "\n".join(map(processes.output, group))
    assert codes == [exits.BAD_DATA] * 2, told
    assert told.count(f"process {host}: data: ") == 2, told


BAD_DATA = """
import sys
sys.path.insert(0, {root})
from tests import tiny

def get_config():
    c = tiny.tiny(total="5000 steps")
    from clipjax.data import images
    import os
    if os.environ["CLIPJAX_PROCESS_ID"] == "{host}":
        def broken(*arguments, **settings):
            raise images.BadImage("broken for this test")
        images.decode_train = broken
    return c
"""
