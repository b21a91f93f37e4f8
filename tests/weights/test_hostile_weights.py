"""Damaged and hostile files: each is refused in one line, nothing runs, nothing is half-written."""

import json
import pathlib
import pickle
import shutil
import struct
import zipfile

import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

import clipjax
from clipjax import convert
from clipjax.common.exits import CleanExit
from clipjax.weights import huggingface_folder, open_clip
from tests.weights import small

CANARY = "canary"
WEIGHTS = huggingface_folder.WEIGHTS


class Payload:
    """A pickle that writes a file when it is read."""

    def __init__(self, file):
        self.file = str(file)

    def __reduce__(self):
        return pathlib.Path.write_text, (pathlib.Path(self.file), "it ran")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A folder of transformers', which converts."""
    folder = tmp_path_factory.mktemp("good") / "model"
    model = small.model()
    small.write(folder, model, to="huggingface")
    return folder


def rewrite(folder, change):
    """The weights' arrays changed by a function, their file written anew."""
    tensors = dict(safetensors_numpy.load_file(folder / WEIGHTS))
    change(tensors)
    (folder / WEIGHTS).unlink()
    safetensors_numpy.save_file(tensors, folder / WEIGHTS)


def header(folder, change):
    """The safetensors header changed by a function."""
    data = (folder / WEIGHTS).read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    content = json.loads(data[8 : 8 + length])
    change(content)
    text = json.dumps(content).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def settings(folder, **changes):
    file = folder / huggingface_folder.CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def set_nan(tensors):
    tensors["text_projection.weight"][3, 4] = np.nan


def overlap(content):
    names = [name for name in content if name != "__metadata__"]
    content[names[1]]["data_offsets"] = content[names[0]]["data_offsets"]


def beyond(content):
    name = next(name for name in content if name != "__metadata__")
    content[name]["data_offsets"] = [1 << 40, (1 << 40) + 4]


def huge(content):
    name = next(name for name in content if name != "__metadata__")
    content[name]["shape"] = [1 << 62, 1 << 62]


def write(folder, data):
    (folder / WEIGHTS).write_bytes(data)


FOLDERS = {
    "truncated": lambda f: write(f, (f / WEIGHTS).read_bytes()[:-1000]),
    "trailing bytes": lambda f: write(f, (f / WEIGHTS).read_bytes() + b"\0" * 64),
    "empty": lambda f: write(f, b""),
    "2 GB header": lambda f: write(f, struct.pack("<Q", 2 << 30) + b"{" * 1000),
    "header of 2^63": lambda f: write(f, struct.pack("<Q", 1 << 63) + b"{}"),
    "not JSON": lambda f: write(f, struct.pack("<Q", 8) + b"\xff" * 8),
    "overlapping offsets": lambda f: header(f, overlap),
    "offsets beyond the file": lambda f: header(f, beyond),
    "a shape that overflows": lambda f: header(f, huge),
    "wrong shape": lambda f: rewrite(f, lambda t: t.update(logit_scale=np.ones(3, np.float32))),
    "missing": lambda f: rewrite(f, lambda t: t.pop("visual_projection.weight")),
    "extra": lambda f: rewrite(f, lambda t: t.update(extra=np.ones(3, np.float32))),
    "not finite": lambda f: rewrite(f, set_nan),
    "integers": lambda f: rewrite(f, lambda t: t.update(logit_scale=np.ones((), np.int64))),
    "a pickle by another name": lambda f: write(f, pickle.dumps(Payload(f / CANARY))),
    "only a pickle": lambda f: (
        (f / WEIGHTS).unlink(),
        (f / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(f / CANARY))),
    ),
    "settings that are a list": lambda f: (f / huggingface_folder.CONFIG).write_text("[]"),
    "settings as deep as the stack": lambda f: (f / huggingface_folder.CONFIG).write_text(
        "[" * 200_000
    ),
    "a billion layers": lambda f: settings(
        f, vision_config={"hidden_size": 128, "num_hidden_layers": 10**9, "image_size": 32}
    ),
    "another model": lambda f: settings(f, model_type="bert"),
    "no weights": lambda f: (f / WEIGHTS).unlink(),
    "a folder for weights": lambda f: ((f / WEIGHTS).unlink(), (f / WEIGHTS).mkdir()),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_damaged_folder_is_one_line_and_leaves_nothing(name, good, tmp_path, capfd):
    folder = tmp_path / "model"
    shutil.copytree(good, folder)
    FOLDERS[name](folder)
    refused(folder, tmp_path, capfd)


def refused(path, tmp_path, capfd, **options):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CleanExit) as caught:
        convert.convert(str(path), to="open_clip", output=str(tmp_path / "out"), **options)
    message = str(caught.value)
    assert caught.value.code in (64, 65) and "\n" not in message and len(message) < 400
    assert str(path) in message
    assert sorted(tmp_path.iterdir()) == before
    assert not list(tmp_path.rglob(CANARY)), "the payload ran"
    return message


def npz(file, **arrays):
    np.savez(file, **arrays)


def npz_object(file):
    np.savez(file, **{"img/embedding/kernel": np.array([Payload(file.parent / CANARY)], object)})


def npz_bomb(file):
    """A member whose header promises far more than it holds."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)}
    with zipfile.ZipFile(file, "w") as archive, archive.open("t.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, header)


ARCHIVES = {
    "object arrays": npz_object,
    "a bomb": npz_bomb,
    "no archive": lambda file: file.write_bytes(b"PK\x03\x04 not really"),
    "no SigLIP": lambda file: npz(file, a=np.ones(3)),
    "a pickle": lambda file: file.write_bytes(pickle.dumps(Payload(file.parent / CANARY))),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_hostile_archive_is_one_line(name, tmp_path, capfd):
    ARCHIVES[name](tmp_path / "model.npz")
    refused(tmp_path / "model.npz", tmp_path, capfd)


@pytest.mark.parametrize("ending", [".pt", ".pth", ".bin", ".ckpt"])
def test_a_pickle_is_not_read_unless_trusted(ending, tmp_path, capfd):
    file = tmp_path / f"model{ending}"
    file.write_bytes(pickle.dumps(Payload(tmp_path / CANARY)))
    assert "--trust_pickle" in refused(file, tmp_path, capfd)


@pytest.mark.interop
def test_a_trusted_file_that_is_no_state_dict_is_one_line(tmp_path, capfd):
    file = tmp_path / "model.pt"
    file.write_bytes(b"\x80\x04garbage")
    refused(file, tmp_path, capfd, trust_pickle=True)
    file.write_bytes(pickle.dumps(Payload(tmp_path / CANARY)))
    refused(file, tmp_path, capfd, trust_pickle=True)  # weights_only: still not run


def test_there_are_twenty():
    assert len(FOLDERS) + len(ARCHIVES) >= 20


def test_what_is_no_model_and_where_nothing_can_be_written_is_one_line(good, tmp_path, monkeypatch):
    (tmp_path / "cat.png").write_bytes(b"no model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    cases = (
        ("cat.png", "out", "cat.png: holds no clipjax checkpoint"),
        ("~/nothing", "out", f"{tmp_path}/nothing: no such file or folder"),
        (str(good), "gs://bucket/out", "--output=gs://bucket/out: name a local folder"),
    )
    for path, output, message in cases:
        with pytest.raises(CleanExit, match=message) as caught:
            convert.convert(path, to="clipjax", output=output)
        assert "\n" not in str(caught.value)
        assert [file.name for file in tmp_path.iterdir()] == ["cat.png"]
    with pytest.raises(CleanExit, match="no such file or folder"):
        clipjax.load("~/nothing")
    convert.convert(str(good), to="open_clip", output="~/out")
    assert clipjax.load("~/out").encode_text(["a cat"]).shape == (1, 16)


def test_an_output_that_exists_is_not_touched(good, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    with pytest.raises(CleanExit, match="exists already"):
        convert.convert(str(good), to="open_clip", output=str(tmp_path / "out"))
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine"]
    assert (tmp_path / "out" / "mine").read_text() == "kept"
    assert open_clip.CONFIG not in [file.name for file in tmp_path.iterdir()]
