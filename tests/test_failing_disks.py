"""What no disk takes is one line and an exit code, in every program, at whatever write it fails.

The table has every program and verb that writes, on disks that are full, of a quota, read-only, of
somebody else, failing, or of a file-size limit, from the first write on or from a later one.
"""

import errno
import itertools
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

import clipjax
from clipjax.common import exits
from tests import one_program
from tests.data import tars, webdatasets

ROOT = pathlib.Path(clipjax.__file__).parent
pytestmark = pytest.mark.slow  # 456 rows; `common/files.py` itself is tested in tests/common
CODES = {  # 64 where another place must be named, 74 where this one may do later
    "ENOSPC": exits.CHECKPOINT_IO,
    "EDQUOT": exits.CHECKPOINT_IO,
    "EFBIG": exits.CHECKPOINT_IO,
    "EIO": exits.CHECKPOINT_IO,
    "EROFS": exits.BAD_CONFIG,
    "EACCES": exits.BAD_CONFIG,
}
LATER = (1, 2, 4, 8, 16)  # writes that succeed before all fail
DATA = "--source=tar --path=in/0.tar --num_workers=0"
RUN = "--config=config.py --config.data.path=in/0.tar"
SUITE = "--suite=suite.py --data=sets"
# Program → command lines, {} for the disk; each with the disks' errors that it is tried on.
ALL, SOME, TWO = tuple(CODES), ("ENOSPC", "EACCES"), ("ENOSPC", "EROFS")
COMMANDS = {
    # Training joins its processes before anything asks for devices, so it comes first.
    "clipjax.main": {f"{RUN} --workdir={{}}/run": TWO},
    "clipjax.dataset": {
        f"check {DATA} --output={{}}/check": ALL,
        f"index {DATA} --output={{}}/index": ALL,
        f"convert {DATA} --output={{}}/converted": SOME,  # TFDS takes its time
        f"tokenizer {DATA} --output={{}}/words --vocab_size=280": ALL,
        "queries --text=text.txt --min_count=1 --output={}/queries.txt": ALL,
        f"balance {DATA} --queries=queries.txt --output={{}}/balanced.keep": ALL,
        f"dedup {DATA} --against=tar:in/0.tar --output={{}}/dedup.keep": ALL,
    },
    "clipjax.compare": {"--workdir=run --metric=train/logit_scale --output={}/x.png": ALL},
    "clipjax.convert": {
        "--input=run --format=clipjax --output={}/copied": SOME,
        "--input=run --format=open_clip --output={}/exported": ALL,
        "--input=run --format=huggingface --output={}/exported": ALL,
    },
    "clipjax.evaluate": {
        "--workdir={}/run": SOME,
        "--workdir={}/run --query=caption": SOME,
        f"--weights=run {SUITE} --output={{}}/results": TWO,
        f"--workdir={{}}/run {SUITE}": TWO,
    },
    "clipjax.overlap": {
        f"--weights=run {SUITE} --training=tar:in/0.tar --results={{}}/results": SOME,
    },
    "clipjax.plan": {f"{RUN} --topology=v5e:2x2 --sweep --json={{}}/plan.json": ALL},
}
CONFIG = """
from tests import tiny
from clipjax import config

def get_config():
    c = tiny.tiny(total="2 steps", batch_size=8)
    c.model.text.vocab_size = 280
    c.data.source = "tar"
    c.evals.held_out = config.evaluator(
        "retrieval", source="tar", path="in/0.tar", every="2 steps", max_examples=16
    )
    return c
"""
SETS = """
from clipjax.evals import suites

def get_suite():
    return suites.Suite("mine", (suites.own("one", path="sets/one", n=12),), ("zero_shot",))
"""
# A run in this process leaves, the next one joins what this one has joined, and nothing is planned.
BEFORE = """
import jax
from clipjax.common import exits
from clipjax.parallel import shutdown
from clipjax.planning import figures, topologies
from clipjax.training.checkpoint import saver
def end(code):
    raise SystemExit(code)
shutdown.end = end
jax.distributed.shutdown = lambda: None
saver.RETRY_SECONDS = 0.0
topologies.check_compiler = lambda: "0"
topologies.prepare_environment = lambda dump: None
topologies.devices = lambda *arguments, **settings: [None] * 4
figures.variants = lambda config, **settings: [[config]]
def measure(*arguments, **settings):
    raise exits.ConfigError("not compiled")
figures.measure = measure
"""
FAILING = "from tests import failing_disk\nfailing_disk.install()\n"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with data, a run and a suite's results on it."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "in").mkdir()
    tars.write(folder / "in" / "0.tar", tars.pairs(40))
    (folder / "config.py").write_text(CONFIG)
    (folder / "suite.py").write_text(SETS)
    (folder / "text.txt").write_text("caption 1 caption 2\n" * 5)
    (folder / "queries.txt").write_text("caption\n")
    samples = [{"jpg": tars.picture(i), "cls": b"%d" % (i % 3)} for i in range(12)]
    webdatasets.write(folder / "sets" / "one", samples, names=("a", "b", "c"))
    ready = one_program.run_several(
        [
            ("clipjax.main", [f"{RUN} --workdir=run".split()]),
            ("clipjax.evaluate", [f"--weights=run {SUITE} --output=results".split()]),
        ],
        cwd=folder,
        before=BEFORE,
    )
    assert [result.code for result in ready] == [0, 0], ready
    return folder


def disk(world, program, line, error, after):
    """A new folder that fails so, holding what the command reads there."""
    number = list(COMMANDS[program]).index(line)
    folder = world / "disks" / f"{program}-{number}" / f"{error}-after-{after}"
    folder.mkdir(parents=True)
    if program == "clipjax.evaluate" and "--workdir" in line:
        shutil.copytree(world / "run", folder / "run")
        shutil.rmtree(folder / "run" / "evaluations", ignore_errors=True)
    if program == "clipjax.overlap":
        shutil.copytree(world / "results" / "mine", folder / "results")
    return folder


def check(result, folder, *, code):
    """One line that names what lies on the disk, and the exit code."""
    said = [line for line in result.err.splitlines() if line.startswith("clipjax: ")]
    assert result.code == code and len(said) == 1, result
    assert str(folder) in said[0] and os.strerror(errno_of(folder)) in said[0], result
    assert "Traceback" not in result.err + result.out, result


def errno_of(folder):
    return getattr(errno, folder.name.split("-")[0])


def check_whole(folder):
    """What has its final name is whole, and nothing is left beside it."""
    for path in folder.rglob("*"):
        if path.is_dir() or "checkpoints" in path.parts:
            continue
        assert not path.name.endswith(".tmp"), path
        if path.suffix == ".json" and path.name != "owner.json":
            json.loads(path.read_text())
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                assert arrays.files
        elif path.suffix == ".png":
            Image.open(path).verify()
        elif path.suffix in (".html", ".keep", ".txt", ".tsv"):
            assert path.stat().st_size, path
            assert path.suffix != ".html" or path.read_text().rstrip().endswith("</html>")


@pytest.fixture(scope="module")
def ended(world):
    """(program, line, error, writes before it fails, the disk, Result) of each row of the table."""
    rows = [
        (program, line, error, after, disk(world, program, line, error, after))
        for program, lines in COMMANDS.items()
        for line, errors in lines.items()
        for error, after in itertools.product(errors, (0, *LATER))
    ]
    commands = {program: [] for program in COMMANDS}
    for program, line, _, _, folder in rows:
        commands[program].append(line.replace("{}", str(folder)).split())
    results = one_program.run_several(
        commands.items(), cwd=world, before=BEFORE + FAILING, timeout=1800
    )
    return [(*row, result) for row, result in zip(rows, results, strict=True)]


LINES = [(program, line) for program, lines in COMMANDS.items() for line in lines]


@pytest.mark.parametrize(("program", "line"), LINES, ids=[" ".join(each)[:50] for each in LINES])
def test_a_write_that_fails_is_one_line_and_leaves_nothing_half_written(ended, program, line):
    failed = set()
    for *which, error, after, folder, result in ended:
        if which != [program, line]:
            continue
        check_whole(folder)
        if result.code != exits.DONE:
            by_orbax = "clipjax: saving " in result.err  # 74, be it full or read-only
            check(result, folder, code=exits.CHECKPOINT_IO if by_orbax else CODES[error])
            failed.add(after)
            if line == "--workdir={}/run":  # the figures are not lost with their file
                assert "text_to_image_recall" in result.out.replace(" ", "_"), result
    assert 0 in failed and failed & set(LATER), failed


def test_the_table_is_whole(ended):
    assert len(ended) == 456
    programs = {path.stem for path in ROOT.glob("*.py") if "    cli.run" in path.read_text()}
    assert {program.removeprefix("clipjax.") for program in COMMANDS} == programs - {"verify"}
    lines = " ".join(COMMANDS["clipjax.dataset"])
    verbs = ("check", "index", "convert", "tokenizer", "queries", "balance", "dedup")
    assert all(f"{verb} " in lines for verb in verbs)  # and bench, which writes nothing
