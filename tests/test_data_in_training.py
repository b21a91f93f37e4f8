"""Mixtures and windows through the whole training program."""

import pytest

from clipjax import config
from clipjax.build import data as build_data
from clipjax.common import exits
from tests import tiny
from tests.data import fakes, tars


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(6):
        tars.write(folder / f"{shard}.tar", tars.pairs(10, start=10 * shard))

    def make(**changes):
        c = tiny.tiny(**changes)
        with c.unlocked():
            c.data.mixture.web = config.part(
                3,
                source="tar",
                path=str(folder),
                order="window",
                window=2,
                text_key="caption,txt",
                text_weights=(1.0, 2.0),
            )
            c.data.mixture.demo = config.part(1, source="scenes")
        return c

    return make


def test_a_locked_config_as_the_command_line_gives_it(mixed, tmp_path):
    c = mixed()
    c.data.cache_dir = str(tmp_path / "cache")
    c.evals.held_out = config.evaluator("retrieval", source="tar", path=c.data.mixture.web.path)
    c.lock()
    source = build_data.source(c.data, image_size=32, seed=0)
    stream = build_data.examples(c, source=source, tokenizer=fakes.FakeTokenizer())
    rows = [stream[position] for position in range(8)]
    assert [row["source"] for row in rows].count("web") == 6
    assert stream.progress(8)["data/demo/examples"] == 2
    assert len(build_data.evaluation_source(c, "held_out")) == 60
    assert len(list((tmp_path / "cache" / "index").iterdir())) == 6


def hashes(workdir):
    return {step: line["data/records_hash"] for step, line in tiny.values(workdir).items()}


@pytest.mark.slow
def test_the_same_records_however_they_are_loaded_and_resumed(mixed, tmp_path, capfd):
    assert tiny.run(mixed(), tmp_path / "straight") == exits.DONE
    workers = mixed()
    workers.data.num_workers = 1
    assert tiny.run(workers, tmp_path / "workers") == exits.DONE
    first = mixed(total="4 steps")
    assert tiny.run(first, tmp_path / "resumed") == exits.DONE
    assert tiny.run(mixed(), tmp_path / "resumed", allow_config_change=True) == exits.DONE
    expected = hashes(tmp_path / "straight")
    assert expected == hashes(tmp_path / "workers") == hashes(tmp_path / "resumed")
    assert len(set(expected.values())) == len(expected) == 6
    last = tiny.values(tmp_path / "straight")[6]
    assert (last["data/web/examples"], last["data/demo/examples"]) == (72, 24)
    assert last["data/web/epochs"] == 72 / 60
    assert last["data/bad_fraction"] == last["data/cleaned_fraction"] == 0
    assert "web 1.20 epochs" in capfd.readouterr().out
