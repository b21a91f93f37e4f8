"""Remote shards: the same records as local ones, retries, a bounded cache, faults told."""

import contextlib
import functools
import http.server
import itertools
import os
import pathlib
import pickle
import shutil
import socketserver
import threading

import numpy as np
import pytest

from clipjax import config
from clipjax.build import data as build_data
from clipjax.common import exits, urls
from clipjax.common.exits import ConfigError, DataError, RemoteError
from clipjax.data import examples, loader, order
from clipjax.data.sources import index_file, remote, shard_files, sharded
from clipjax.data.sources.shard_files import ShardFiles
from clipjax.data.sources.tar import open_tars
from tests.data import fakes, tars

SHARDS = 6


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; `faults` are answers to give first, by path."""

    def __init__(self, *arguments, faults, asked, **options):
        self.faults, self.asked = faults, asked
        super().__init__(*arguments, **options)

    def do_GET(self):
        self.asked.append(self.path)
        fault = self.faults.get(self.path, [])
        if fault:
            answer = fault.pop(0)
            if answer == "cut":
                content = pathlib.Path(self.translate_path(self.path)).read_bytes()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2])
                return
            self.send_error(answer)
            return
        super().do_GET()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    for shard in range(SHARDS):
        tars.write(folder / f"{shard:05d}.tar", tars.pairs(5, start=5 * shard))
    faults, asked = {}, []
    handler = functools.partial(Handler, directory=str(folder), faults=faults, asked=asked)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as made:
        made.daemon_threads = True
        thread = threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        made.url = f"http://127.0.0.1:{made.server_address[1]}"
        made.folder, made.faults, made.asked = folder, faults, asked
        made.range = f"{made.url}/{{00000..{SHARDS - 1:05d}}}.tar"
        shard_files.remote_identity.cache_clear()
        yield made
        made.shutdown()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.001)


def records(source):
    return [source[index] for index in range(len(source))]


def copies(folder):
    names = os.listdir(folder / "shards") if (folder / "shards").exists() else []
    return [name for name in names if not name.endswith((".lock", ".failed", ".part"))]


def test_http_gives_the_same_records(server, tmp_path):
    files = ShardFiles(str(tmp_path / "cache"))
    source = open_tars(server.range, files=files)
    local = open_tars(server.folder)
    assert records(source) == records(local)
    assert source.fingerprint == local.fingerprint
    again = pickle.loads(pickle.dumps(source))  # noqa: S301 (our own bytes)
    assert again[7] == local[7]
    gets = [path for path in server.asked if path.endswith(".tar")]
    assert sorted(gets) == sorted(set(gets))  # each shard came once
    assert len(copies(tmp_path / "cache")) == SHARDS


def test_fsspec_lists_and_reads(server, tmp_path):
    memory = pytest.importorskip("fsspec").filesystem("memory")
    for file in server.folder.glob("*.tar"):
        memory.pipe(f"/bucket/set/{file.name}", file.read_bytes())
    local = open_tars(server.folder)
    for name in (
        "memory://bucket/set",
        "memory://bucket/set/*.tar",
        "memory://bucket/set/{00000..00005}.tar",
    ):
        source = open_tars(name, files=ShardFiles(str(tmp_path / "cache")))
        assert records(source) == records(local)
        assert source.key(0) == "00000.tar/000000000"
    with pytest.raises(ConfigError, match="matches no file"):
        open_tars("memory://bucket/none/*.tar")
    memory.rm("/bucket", recursive=True)


def test_transient_faults_are_tried_again(server, tmp_path, caplog):
    server.faults["/00001.tar"] = [503, "cut", 429]
    source = open_tars(server.range, files=ShardFiles(str(tmp_path / "cache")))
    assert len(source) == 5 * SHARDS
    assert "503" in caplog.text and "bytes came" in caplog.text
    assert not list((tmp_path / "cache" / "shards").glob("*.part"))


def test_lasting_faults_name_the_shard(server, tmp_path):
    files = ShardFiles(str(tmp_path / "cache"))
    with pytest.raises(DataError, match=r"tar shard http://127.*/00009.tar: .*404"):
        open_tars(f"{server.url}/00009.tar", files=files)


@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_outage_ends_the_run_with_a_restart(server, tmp_path, num_workers):
    """It must not become bad records: they would be others than without the outage."""
    stream = windowed(server, ShardFiles(str(tmp_path / "cache")))
    shutil.rmtree(tmp_path / "cache" / "shards")
    server.faults |= {f"/{shard:05d}.tar": [503] * 10**6 for shard in range(SHARDS)}
    batches = loader.train_batches(stream, start=0, batch_size=8, num_workers=num_workers)
    with contextlib.closing(batches), pytest.raises(RemoteError, match=r"503.*after 7 attempts"):
        next(batches)
    with pytest.raises(RemoteError) as caught:
        open_tars(server.range, files=ShardFiles(str(tmp_path / "other")))
    assert caught.value.code == exits.PEER_FAILURE


def test_a_shard_that_vanishes_is_bad_records_and_asked_for_once(server, tmp_path):
    files = ShardFiles(str(tmp_path / "cache"))
    source = open_tars(server.range, files=files)
    late = pickle.loads(pickle.dumps(source))  # noqa: S301 (our own bytes)
    os.unlink(files.copy_of(source.paths[2]))
    os.unlink(server.folder / "00002.tar")
    shard_files.remote_identity.cache_clear()
    server.asked.clear()
    for index in range(10, 15):
        with pytest.raises(OSError, match=r"00002\.tar"):
            late[index]
    assert late[9] == source[9]
    assert server.asked.count("/00002.tar") <= 1


def test_the_cache_is_bounded(server, tmp_path):
    size = (server.folder / "00000.tar").stat().st_size
    files = ShardFiles(str(tmp_path / "cache"), cache_bytes=3 * size)
    source = open_tars(server.range, files=files)
    assert len(copies(tmp_path / "cache")) == 3
    expected = records(open_tars(server.folder))
    for index in np.random.default_rng(0).permutation(len(source)):
        assert source[index] == expected[index]
        kept = (tmp_path / "cache" / "shards").iterdir()
        assert sum(place.stat().st_size for place in kept) <= 3 * size
    held = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    gone = [path for path in held if path.startswith(str(tmp_path)) and "(deleted)" in path]
    assert len(gone) <= 1  # what was evicted takes no room


def test_a_shard_replaced_by_another_is_noticed(server, tmp_path):
    files = ShardFiles(str(tmp_path / "cache"))
    source = open_tars(server.range, files=files)
    os.unlink(files.copy_of(source.paths[0]))
    tars.write(server.folder / "00000.tar", tars.pairs(7, start=100))
    shard_files.remote_identity.cache_clear()
    late = pickle.loads(pickle.dumps(source))  # noqa: S301 (our own bytes)
    with pytest.raises(DataError, match=r"00000.tar: changed while in use"):
        late[0]


def windowed(server, files, *, survey=None):
    source = open_tars(server.range, files=files, survey=survey)
    return examples.TrainExamples(
        source,
        tokenizer=fakes.FakeTokenizer(),
        image_size=16,
        seed=1,
        order=order.WindowOrder(source.lengths, window=2, seed=1),
    )


def test_windows_over_http_with_an_index(server, tmp_path):
    """From an index no shard is opened at the start, then only those of two windows."""
    files = ShardFiles(str(tmp_path / "cache"))
    first = open_tars(server.range, files=files)
    for path in first.paths:
        (place,) = files.index_places(path)
        columns = index_file.parse(
            remote.read(place), names=("numbers", "members", "keys", "key_ends", "extensions")
        )
        index_file.write(columns, shard_files.shared_index(path, folder=str(tmp_path / "index")))
    sharded.write_survey(first.survey_of(), folder=str(tmp_path / "index"))
    server.asked.clear()

    fresh = ShardFiles(str(tmp_path / "fresh"), index=str(tmp_path / "index"))
    stream = windowed(server, fresh, survey=sharded.read_survey(str(tmp_path / "index")))
    assert stream.source.fingerprint == first.fingerprint
    assert not server.asked
    rows = loader.make_rows(0, examples=stream, start=0, batch_size=8, rows=np.arange(8))
    stream.source._fetcher.shutdown(wait=True)
    assert len(set(server.asked)) == len(server.asked) == 4
    local = windowed(server, ShardFiles())
    assert rows["record_id"].tolist() == [local[p]["record_id"] for p in range(8)]


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_hosts_and_workers_over_http(server, tmp_path, num_workers):
    files = ShardFiles(str(tmp_path / "cache"), cache_bytes=100_000)
    whole = [windowed(server, files)[p]["record_id"] for p in range(13, 45)]
    for hosts in (1, 2, 4) if num_workers == 0 else (2,):
        parts = []
        for rows in np.split(np.arange(8), hosts):
            batches = loader.train_batches(
                windowed(server, files), start=13, batch_size=8, rows=rows, num_workers=num_workers
            )
            with contextlib.closing(batches):
                taken = itertools.islice(batches, 4)
                parts.append([batch["record_id"].copy() for batch, _ in taken])
        joined = [np.concatenate(step) for step in zip(*parts, strict=True)]
        assert np.concatenate(joined).tolist() == whole


def test_a_cache_too_small_for_the_order_is_refused(server, tmp_path):
    def stream(**changes):
        c = config.defaults()
        c.data.update(source="tar", path=server.range, cache_dir=str(tmp_path), **changes)
        source = build_data.source(c.data, image_size=16, seed=0)
        return build_data.examples(c, source=source, tokenizer=fakes.FakeTokenizer())

    assert len(stream().source) == 30
    size = (server.folder / "00000.tar").stat().st_size / 1e9
    with pytest.raises(ConfigError, match=r"order 'global' reads .*set --config.data.order=window"):
        stream(cache_gigabytes=5 * size)
    stream(cache_gigabytes=5 * size, order="window", window=2)
    with pytest.raises(ConfigError, match=r"a smaller --config.data.window"):
        stream(cache_gigabytes=3 * size, order="window", window=2)


def test_an_index_for_something_else_is_refused(server, tmp_path):
    source = open_tars(server.folder)
    survey = source.survey_of()
    with pytest.raises(DataError, match="made for the keys"):
        open_tars(server.folder, survey=survey, text_key="caption")
    tars.write(server.folder / "7.tar", tars.pairs(1))
    with pytest.raises(DataError, match=r"1 of 7 shards are not in it, first 7.tar"):
        open_tars(server.folder, survey=survey)
    with pytest.raises(ConfigError, match=r"cannot be read: .*clipjax.dataset index"):
        sharded.read_survey(str(tmp_path / "none"))
    (tmp_path / "survey.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        sharded.read_survey(str(tmp_path))


def test_signed_addresses(server, tmp_path):
    files = ShardFiles(str(tmp_path / "cache"))
    source = open_tars(f"{server.url}/00000.tar?signature={'x' * 400}", files=files)
    assert source.key(1) == "00000.tar/000000001" and source[1]["text"] == "text 1"


def test_messages_hold_no_secrets():
    assert urls.shown("https://me:pw@host/a.tar?X-Signature=abc") == "https://host/a.tar"
    with pytest.raises(ConfigError, match="needs a package"):
        remote.find("nonsense://x", ending=".tar")
