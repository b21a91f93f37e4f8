"""Each fault ends in its documented state: who goes on, who leaves, and with which code."""

import re
import signal
import time

import pytest

from clipjax.common import exits
from tests import processes, tiny
from tests.chaos import faults

pytestmark = pytest.mark.multihost


def ended(group, timeout=240.0):
    """Exit codes and everything said."""
    codes = [processes.finish(process, timeout=timeout) for process in group]
    return codes, "\n".join(map(processes.output, group))


def small_files(tmp_path, *, hosts):
    """(--config, work directory, file that ends the shortage) of a run whose disks are full."""
    workdir, lift = tmp_path / "run", tmp_path / "lift"
    names = {"hosts": hosts, "workdir": str(workdir), "lift": str(lift)}
    return faults.config(tmp_path, fault=faults.SMALL_FILES, **names), workdir, lift


def test_a_full_disk_does_not_stop_training(tmp_path):
    config, workdir, lift = small_files(tmp_path, hosts="0")
    process = processes.start(
        config,
        f"--workdir={workdir}",
        "--config.total=100 steps",
        "--config.checkpoint.every=20 steps",
    )
    processes.wait_for_text(process, "training goes on")
    lift.touch()
    codes, told = ended([process])
    assert codes == [exits.DONE], told
    assert "steps saved before are intact" in told
    assert (workdir / "checkpoints" / "100").is_dir()
    assert not list((workdir / "checkpoints").glob("*tmp*"))
    assert sorted(tiny.values(workdir)) == list(range(1, 101))


def test_a_disk_that_stays_full_ends_the_run_with_74(tmp_path):
    config, workdir, _ = small_files(tmp_path, hosts="0")
    codes, told = ended([processes.start(config, f"--workdir={workdir}")])
    assert codes == [exits.CHECKPOINT_IO], told
    assert "3 failures in a row" in told


@pytest.mark.parametrize("host", ["0", "1"])
def test_a_disk_that_fills_on_one_host_stops_none(tmp_path, host):
    """Its part of a save fails; the others, whose parts did not, hear of it and go on with it."""
    config, workdir, lift = small_files(tmp_path, hosts=host)
    arguments = ("--config.total=100 steps", "--config.checkpoint.every=20 steps")
    group = processes.start_joined(config, f"--workdir={workdir}", *arguments, count=2, devices=1)
    processes.wait_for_text(group[0], "training goes on")
    lift.touch()
    codes, told = ended(group)
    assert codes == [exits.DONE] * 2, told
    assert f"OSError: on process {host}: " in told  # what the other one says
    assert (workdir / "checkpoints" / "100").is_dir()
    assert not list((workdir / "checkpoints").glob("*tmp*"))
    assert sorted(tiny.values(workdir)) == list(range(1, 101))


def test_a_disk_that_stays_full_on_one_host_ends_all_with_74(tmp_path):
    config, workdir, _ = small_files(tmp_path, hosts="1")
    group = processes.start_joined(config, f"--workdir={workdir}", count=2, devices=1)
    codes, told = ended(group)
    assert codes == [exits.CHECKPOINT_IO] * 2, told
    assert "3 failures in a row" in told
    assert "Event loop is closed" not in told, "each writer's complaint hides what matters"


def test_a_folder_out_of_reach_stops_none_and_in_the_end_all_with_74(tmp_path):
    """A file in its place, which stops root, too: first for a while, then for good."""
    workdir = tmp_path / "run"
    folder, aside = workdir / "checkpoints", workdir / "aside"
    arguments = ("--config.total=5000 steps", "--config.checkpoint.every=100 steps")
    group = processes.start_joined(
        "--config=tests/tiny.py", f"--workdir={workdir}", *arguments, count=2, devices=1
    )
    processes.wait_for_lines(group[0], workdir / "metrics.jsonl", 105)
    folder.rename(aside)
    folder.write_text("")
    processes.wait_for_text(group[1], "training goes on")
    folder.unlink()
    aside.rename(folder)
    until = len(tiny.lines(workdir)) + 150
    processes.wait_for_lines(group[0], workdir / "metrics.jsonl", until)
    folder.rename(aside)
    folder.write_text("")
    codes, told = ended(group)
    assert codes == [exits.CHECKPOINT_IO] * 2, told
    assert told.count("failure 1 of 3 in a row") == 4 and "3 failures in a row, leaving" in told
    assert max(int(path.name) for path in aside.iterdir() if path.name.isdigit()) > 100


def test_a_disk_that_fails_as_each_save_begins_ends_all_with_74(tmp_path):
    """On the lead alone, which orbax would let the others wait for."""
    config = faults.config(tmp_path, fault=faults.BROKEN_DISK)
    group = processes.start_joined(config, f"--workdir={tmp_path / 'run'}", count=2, devices=1)
    codes, told = ended(group)
    assert codes == [exits.CHECKPOINT_IO] * 2, told
    assert "step 6 in" in told
    assert "OSError: on process 0: [Errno 5] Input/output error; 3 failures in a row" in told


@pytest.mark.parametrize(
    ("handler", "item", "host"),
    [("PyTreeCheckpointHandler", "state", "1"), ("JsonCheckpointHandler", "run", "0")],
)
def test_a_checkpoint_that_one_host_cannot_read_is_put_aside_by_all(tmp_path, handler, item, host):
    arguments = (f"--workdir={tmp_path / 'run'}", "--config.checkpoint.every=20 steps")

    def run(config, steps):
        total = f"--config.total={steps} steps"
        group = processes.start_joined(
            config, *arguments, total, "--allow_config_change", count=2, devices=1
        )
        codes, told = ended(group, timeout=120.0)
        assert codes == [exits.DONE] * 2, told
        return told

    steady = {"settings": 'c.schedule.name = "constant"'}  # whatever the length
    run(faults.config(tmp_path, **steady), 40)
    names = {"handler": handler, "item": item, "host": host}
    told = run(faults.config(tmp_path, fault=faults.UNREADABLE_ON_ONE, **steady, **names), 60)
    assert "DATA_LOSS: checksum does not match" in told
    assert "another process cannot read it" in told
    assert (tmp_path / "run" / "damaged" / "40").is_dir()
    assert sorted(tiny.values(tmp_path / "run")) == list(range(1, 61))


def test_a_second_program_in_the_same_folder_is_refused(tmp_path):
    arguments = ("--config=tests/tiny.py", f"--workdir={tmp_path / 'run'}")
    first = processes.start(*arguments, "--config.total=5000 steps")
    processes.wait_for_lines(first, tmp_path / "run" / "metrics.jsonl", 3)
    codes, told = ended([processes.start(*arguments, "--config.total=5000 steps")])
    assert codes == [exits.BAD_CONFIG], told
    assert f"process {first.pid} on" in told and "is training there" in told
    assert first.poll() is None
    processes.kill(first)
    processes.finish(first)
    again = processes.start(*arguments, "--config.total=5000 steps")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes().count(b"\n")
    processes.wait_for_lines(again, tmp_path / "run" / "metrics.jsonl", before + 1)
    processes.kill(again)
    processes.finish(again)


@pytest.mark.parametrize("fault", ["STUCK_LOADER", "STUCK_WORKER"])
def test_a_host_that_waits_for_ever_ends_all_and_shows_where(tmp_path, fault):
    """Where its thread stands, or its worker's. The tenth is the watchdog's; the rest of a second
    is what a busy machine may add to it."""
    config = faults.config(
        tmp_path, settings="c.watchdog_seconds = 25.0", fault=getattr(faults, fault)
    )
    group = processes.start_joined(config, f"--workdir={tmp_path / 'run'}", count=2, devices=1)
    codes, told = ended(group)
    assert codes == [exits.HANG] * 2, told
    seconds = re.findall(r"nothing was finished for (\d+) seconds", told)
    print(f"noticed after {seconds} s of 25")
    assert seconds and all(25 <= int(one) <= 25 * 1.1 + 1 for one in seconds), told
    assert "in stuck" in processes.output(group[1]), told  # whoever of the two noticed first


def test_compiling_again_and_slow_evaluations_are_no_hang(tmp_path):
    """Three programs, and evaluations that take longer than the watchdog waits."""
    parts = "; ".join(
        f"c.stages.{name} = config.stage({until!r}, image_size={size})"
        for name, until, size in (("small", "32 examples", 16), ("middle", "64 examples", 48))
    )
    slow = 'config.evaluator("loss", source="scenes", max_examples=64, every="5 steps")'
    settings = f"from clipjax import config; {parts}; c.evals.held_out = {slow}"
    config = faults.config(
        tmp_path, settings=f"c.watchdog_seconds = 15.0; {settings}", fault=faults.SLOW_EVALUATIONS
    )
    process = processes.start(config, f"--workdir={tmp_path / 'run'}", "--config.total=6 steps")
    codes, told = ended([process])
    assert codes == [exits.DONE], told
    assert "nothing was finished" not in told
    lines = tiny.lines(tmp_path / "run")
    assert sum("eval/held_out/loss" in line for line in lines) == 2
    spent = max(line.get("time/eval_seconds", 0.0) for line in lines)  # of the first one
    print(f"{spent:.1f} s of one evaluation, watchdog at 15 s")
    assert spent > 15, lines


def test_a_frozen_host_ends_the_others(tmp_path):
    config = faults.config(tmp_path, settings="c.heartbeat_seconds = 10")
    workdir = tmp_path / "run"
    group = processes.start_joined(config, f"--workdir={workdir}", count=2, devices=1)
    processes.wait_for_lines(group[0], workdir / "metrics.jsonl", 3)
    group[1].send_signal(signal.SIGSTOP)
    began = time.monotonic()
    codes, told = ended(group[:1])
    took = time.monotonic() - began
    processes.kill(group[1])
    processes.finish(group[1])
    assert codes[0] in (exits.PEER_FAILURE, -signal.SIGABRT), told
    print(f"ended {took:.1f} s after its peer froze, at heartbeats of 10 s")
    assert took < 10 + 5, took


@pytest.mark.parametrize("host", ["0", "1"])
def test_an_error_that_nobody_expects_ends_all_with_1_and_shows_where(tmp_path, host):
    raises = "raise RuntimeError('a mistake of ours')"
    fault = faults.while_decoding("broken", host=host, does=raises)
    config = faults.config(tmp_path, fault=fault)
    group = processes.start_joined(config, f"--workdir={tmp_path / 'run'}", count=2, devices=1)
    codes, told = ended(group)
    assert codes == [1, 1], told
    assert "in broken" in processes.output(group[int(host)]), told
    assert told.count(f"process {host}: RuntimeError: a mistake of ours") == 2, told


def test_a_host_that_exits_in_the_middle_ends_the_others(tmp_path):
    fault = faults.while_decoding("broken", host="1", does="os._exit(3)")
    config = faults.config(tmp_path, fault=fault)
    group = processes.start_joined(config, f"--workdir={tmp_path / 'run'}", count=2, devices=1)
    codes, told = ended(group)
    assert codes == [exits.PEER_FAILURE, 3], told


def test_a_diverged_run_ends_with_76_on_all_hosts(tmp_path):
    config = faults.config(
        tmp_path, settings="c.optimizer.learning_rate = 1e30; c.optimizer.weight_decay = 0.0"
    )
    group = processes.start_joined(config, f"--workdir={tmp_path / 'run'}", count=2, devices=1)
    codes, told = ended(group)
    assert codes == [exits.DIVERGED] * 2, told
    assert "in a row; parameters are as before them" in told


def test_a_host_started_with_other_settings_is_refused(tmp_path):
    config = faults.config(
        tmp_path, settings='c.optimizer.learning_rate = 1e-3 if HOST == "0" else 2e-3'
    )
    group = processes.start_joined(config, f"--workdir={tmp_path / 'run'}", count=2, devices=1)
    codes, told = ended(group)
    assert codes == [exits.BAD_CONFIG] * 2, told
    assert "process 1 was not started like process 0: optimizer.learning_rate is 0.002" in told


def test_a_host_that_would_compile_another_program_is_refused(tmp_path):
    config = faults.config(tmp_path, fault=faults.OTHER_PROGRAM)
    group = processes.start_joined(config, f"--workdir={tmp_path / 'run'}", count=2, devices=1)
    codes, told = ended(group)
    assert codes == [exits.BAD_CONFIG] * 2, told
    assert "process 1 would compile another program than process 0" in told


def test_a_host_whose_data_are_slow_is_named(tmp_path):
    config = faults.config(tmp_path, fault=faults.SLOW_LOADER)
    workdir = tmp_path / "run"
    group = processes.start_joined(
        *(config, f"--workdir={workdir}", "--config.total=140 steps"), count=2, devices=1
    )
    codes, told = ended(group)
    assert codes == [exits.DONE] * 2, told
    assert "process 1 on " in told and "holds up all others" in told
    named = {line["perf/straggler"] for line in tiny.lines(workdir) if "train/loss" in line}
    assert named == {-1, 1}


def test_a_store_that_fails_now_and_then_costs_no_step(tmp_path):
    config = faults.config(tmp_path, fault=faults.FAILING_STORE)
    workdir = tmp_path / "run"
    process = processes.start(
        *(config, f"--workdir={workdir}", "--config.total=100 steps"),
        *("--config.checkpoint.every=20 steps", "--config.checkpoint.keep_last=9"),
    )
    codes, told = ended([process])
    assert codes == [exits.DONE], told
    for answer in ("HTTP 503", "HTTP 429", "I/O error"):
        assert answer in told
    assert "80" in (steps := sorted(p.name for p in (workdir / "checkpoints").iterdir())), steps
    assert "100" in steps and not [name for name in steps if "tmp" in name]
    assert sorted(tiny.values(workdir)) == list(range(1, 101))
