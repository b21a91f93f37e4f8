"""Records and shards that cannot be used, through `python -m clipjax.main`."""

import re

import pytest

from clipjax.common import exits
from clipjax.curation import index
from clipjax.data.sources.tar import open_tars
from tests import processes, tiny
from tests.data import tars

pytestmark = pytest.mark.multihost  # several at once, as each mostly waits for its imports


def shards(folder, *, count, records, broken=lambda shard, record: ""):
    """Tars; `broken` tells which records lack the end of their "image" or all of their "text"."""
    for shard in range(count):
        entries = list(tars.pairs(records, start=records * shard))
        for record in range(records):
            kind = broken(shard, record)
            if kind == "image":
                name, pixels = entries[3 * record]
                entries[3 * record] = (name, pixels[:-60])
            if kind == "text":
                entries[3 * record + 2] = (entries[3 * record + 2][0], b" \0")
        tars.write(folder / f"{shard}.tar", entries)


def start(folder, *arguments):
    return processes.start(
        *("--config=tests/tiny.py", f"--workdir={folder.parent / 'run'}", *arguments),
        *("--config.data.source=tar", f"--config.data.path={folder}"),
        *("--config.tokenizer.max_captions=40", "--config.model.text.vocab_size=280"),
    )


def some(tmp_path):
    """One record in twenty, and the run goes through all of them once."""
    folder = tmp_path / "some" / "web"
    kinds = {7: "image", 27: "text"}
    shards(folder, count=10, records=40, broken=lambda shard, record: kinds.get(record))
    return start(folder, "--config.total=25 steps", "--config.data.max_bad_fraction=0.1")


def most_of_one(tmp_path):
    folder = tmp_path / "most_of_one" / "web"
    broken = lambda shard, record: "image" if shard == 1 and record % 5 < 3 else ""  # noqa: E731
    shards(folder, count=3, records=100, broken=broken)
    return start(folder, "--config.total=500 steps")


def stale(tmp_path):
    """The list of shards is older than one of them; workers read them."""
    folder = tmp_path / "stale" / "web"
    shards(folder, count=3, records=40)
    index.write(open_tars(folder), folder=str(folder.parent / "index"))
    tars.write(folder / "2.tar", tars.pairs(40, start=1000))
    return start(
        folder,
        *(f"--config.data.index={folder.parent / 'index'}", "--config.data.num_workers=1"),
        "--config.total=500 steps",
    )


def test_some_are_counted_and_too_many_or_a_stale_index_name_the_shard(tmp_path):
    started = [make(tmp_path) for make in (some, most_of_one, stale)]
    codes = [processes.finish(process) for process in started]
    told = [processes.output(process) for process in started]
    assert codes == [exits.DONE, exits.BAD_DATA, exits.BAD_DATA], "\n".join(told)

    lines = [line for line in tiny.lines(tmp_path / "some" / "run") if "train/loss" in line]
    assert len(lines) == 25
    for name, count in (("bad", 20), ("bad/damaged_image", 10), ("bad/empty_caption", 10)):
        assert 16 * sum(line.get(f"data/{name}_fraction", 0) for line in lines) == count, name
    (ending,) = [line for line in told[0].splitlines() if "records replaced" in line]
    assert "20 of 400 records replaced: 10 damaged image, 10 empty caption" in ending
    assert len(re.findall(r"web: \d\.tar 2[,;]", ending + ";")) >= 5

    last = [text.strip().splitlines()[-1] for text in told]
    assert "data: " in last[1] and "of them are in web: 1.tar" in last[1]
    assert "2.tar: changed since config.data.index was made" in last[2]
