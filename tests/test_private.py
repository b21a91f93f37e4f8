"""What a run writes holds no secret, and nobody else may change it."""

import functools
import http.server
import os
import stat
import threading

import pytest

from clipjax.common import exits, urls
from tests import processes, tiny
from tests.data import tars

CANARIES = {
    "HF_TOKEN": "canary-one",
    "WANDB_API_KEY": "canary-two",
    "AWS_SECRET_ACCESS_KEY": "canary-three",
    "GOOGLE_APPLICATION_CREDENTIALS": "/canary-four.json",
    "GITHUB_TOKEN": "canary-five",
    "WANDB_MODE": "offline",  # no secret: its files are looked through, too
}
SIGNATURE = "X-Amz-Signature=canary-six&token=canary-seven"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


WITH_EVALUATION = """
import sys
sys.path.insert(0, ".")
from tests import tiny
from clipjax import config

def get_config():
    c = tiny.tiny()
    path = "{address}?sig=canary-eight"
    c.evals.held_out = config.evaluator("loss", source="tar", path=path, every="3 steps")
    return c
"""


@pytest.fixture
def address(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    tars.write(folder / "0.tar", tars.pairs(40))
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/0.tar?{SIGNATURE}"
        server.shutdown()


@pytest.mark.long
def test_secrets_stay_out_and_others_may_not_write(address, tmp_path):
    workdir = tmp_path / "run"
    arguments = (
        *("--config=tests/tiny.py", "--config.data.source=tar", f"--config.data.path={address}"),
        *(f"--config.data.cache_dir={tmp_path / 'cache'}", "--config.tokenizer.max_captions=40"),
        *("--config.model.text.vocab_size=280", f"--workdir={workdir}"),
        *(f"--config.compilation_cache={tmp_path / 'compiled'}", "--config.wandb=project"),
    )
    settings = tmp_path / "settings.py"
    settings.write_text(WITH_EVALUATION.format(address=address.split("?")[0]))
    arguments = (f"--config={settings}", *arguments[1:])
    umask = os.umask(0)
    try:
        process = processes.start(*arguments, environment=CANARIES)
    finally:
        os.umask(umask)
    assert processes.finish(process) == exits.DONE, processes.output(process)
    assert "canary" not in processes.output(process)
    written = [path for path in tmp_path.rglob("*") if "served" not in path.parts]
    written.remove(settings)
    assert {path.name for path in workdir.iterdir()} >= {
        "checkpoints",
        "config.json",
        "metrics.jsonl",
        "report",
        "tensorboard",
        "wandb",
    }
    assert len([p for p in written if p.is_file()]) > 20
    for path in written:
        status = path.stat()
        assert not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH), path
        if path.is_file():
            assert b"canary" not in path.read_bytes(), path
        assert "canary" not in path.name

    # The next signature is another one: still the same run.
    again = [a.replace("canary", "other").replace("6 steps", "8 steps") for a in arguments]
    process = processes.start(*again, environment={"WANDB_MODE": "offline"})
    assert processes.finish(process) == exits.DONE, processes.output(process)
    assert "the run is complete" in processes.output(process)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("data.path", "{missing}?X-Goog-Signature=canary-nine"),
        ("data.path", "abc://me:canary-ten@datasets/pairs/0.tar"),
        ("init.weights", "https://me:canary-eleven@host/model.safetensors"),
        ("tokenizer.path", "https://host/words.model?token=canary-twelve"),
    ],
)
def test_a_mistake_is_told_without_the_secret_in_it(
    address, tmp_path, capfd, caplog, setting, value
):
    c = tiny.tiny()
    c.data.source = "tar" if setting == "data.path" else "scenes"
    c.data.cache_dir = str(tmp_path / "cache")
    missing = address.split("?")[0].replace("0.tar", "missing.tar")
    c.update_from_flattened_dict({setting: value.format(missing=missing)})
    assert tiny.run(c, tmp_path / "run") in (exits.BAD_CONFIG, exits.BAD_DATA)
    told = "".join(capfd.readouterr()) + caplog.text
    assert "canary" not in told
    assert setting in told or "missing.tar" in told or "//host/model" in told, "which one is said"


@pytest.mark.parametrize("name", ["--workdir", "config.data.cache_dir", "config.compilation_cache"])
def test_a_folder_that_others_may_write_is_refused_in_one_line(name, tmp_path, capsys):
    """And nothing is written there."""
    tars.write(tmp_path / "data" / "0.tar", tars.pairs(1))
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    c = tiny.tiny()
    c.data.update(source="tar", path=str(tmp_path / "data"))
    c.compilation_cache = str(folder) if "compilation" in name else ""
    c.data.cache_dir = str(folder if "data" in name else tmp_path / "cache")
    workdir = folder if name == "--workdir" else tmp_path / "run"
    assert tiny.run(c, workdir) == exits.BAD_CONFIG
    told = capsys.readouterr().out.strip()
    assert (
        told
        == f"clipjax: {name}={folder}: others may write it; chmod go-w it or name another folder"
    )
    assert not list(folder.iterdir())


def test_addresses_lose_what_gives_access_and_nothing_else():
    assert urls.shown("reading https://me:pw@host/{0..9}.tar?sig=a&b=c failed") == (
        "reading https://host/{0..9}.tar failed"
    )
    assert urls.shown("gs://bucket/00?.tar") == "gs://bucket/00?.tar"
    told = "path=https://h/a.tar?sig=1::https://h/b.tar?sig=2: no such file"
    assert urls.shown(told) == "path=https://h/a.tar::https://h/b.tar: no such file"
    assert urls.shown('("https://h/a?sig=1:2"), https://h/b#c.') == '("https://h/a"), https://h/b.'
    given = {"path": ("s3://key:pw@bucket/a", "/data/a?.tar"), "n": 3}
    assert urls.shown_in(given) == {"path": ("s3://bucket/a", "/data/a?.tar"), "n": 3}
