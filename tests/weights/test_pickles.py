"""Files of PyTorch's with --trust_pickle: what their dictionaries hold, what they say, what they do
not; marked interop."""

import argparse
import json
import re
import shlex
import subprocess
import sys

import pytest

import clipjax
from clipjax import convert
from clipjax.build import pretrained
from clipjax.common.exits import CleanExit, ConfigError, DataError, WriteError
from clipjax.weights import huggingface, open_clip, torch_pickles
from tests.weights import small
from tests.weights import test_state_dicts as plain

pytestmark = pytest.mark.interop
MODEL = plain.MODEL


def tensors(*, seed=0, layout=None, prefix=""):
    import torch

    found = plain.arrays(seed=seed, layout=layout)
    return {prefix + name: torch.from_numpy(value.copy()) for name, value in found.items()}


def save(file, content):
    import torch

    file.parent.mkdir(parents=True, exist_ok=True)
    (file.parent / "clip_merges.txt").write_bytes(small.MERGES)
    torch.save(content, file)
    return file


def to_clipjax(path, output, **options):
    line = convert.convert(
        str(path), to="clipjax", output=str(output), trust_pickle=True, **options
    )
    assert "\n" not in line
    return output


@pytest.fixture
def told(tmp_path):
    return str(plain.write(tmp_path / "told.json", plain.config()))


def test_a_checkpoint_of_open_clip_s_training_needs_to_be_told(tmp_path, told):
    """Weights, epoch and optimizer; nothing of activation or heads."""
    content = {
        "epoch": 5,
        "name": "fine-tuned",
        "state_dict": tensors(prefix="module._orig_mod."),
        "optimizer": {"state": {0: {"exp_avg": tensors()["visual.proj"]}}, "param_groups": []},
    }
    file = save(tmp_path / "a" / "epoch_5.pt", content)
    with pytest.raises(ConfigError, match="weights alone"):
        to_clipjax(file, tmp_path / "out")
    plain.assert_is(to_clipjax(file, tmp_path / "out", model_config=told))
    plain.write(file.with_name(open_clip.CONFIG), plain.config())
    plain.assert_is(to_clipjax(file, tmp_path / "again"))


@pytest.mark.parametrize(
    "path",
    [(), ("state_dict",), ("model",), ("model_state_dict",), ("net", "module"), ("state", "model")],
    ids="/".join,
)
def test_weights_in_any_dictionary(path, tmp_path, told):
    content = tensors(prefix="model.module.")
    for name in reversed(path):
        content = {name: content, "epoch": 3}
    file = save(tmp_path / "x.pth", content)
    plain.assert_is(to_clipjax(file, tmp_path / "out", model_config=told))


@pytest.mark.parametrize(
    "names",
    [
        ("state_dict", "state_dict_ema"),
        ("model", "model_ema"),
        ("state_dict", "ema_state_dict"),
        ("model", "ema"),
    ],
    ids="-".join,
)
def test_a_dictionary_of_averages_beside_the_weights(names, tmp_path, told, capsys):
    weights, average = names
    content = {weights: tensors(prefix="module."), average: tensors(seed=1), "epoch": 3}
    file = save(tmp_path / "x.pt", content)
    plain.assert_is(to_clipjax(file, tmp_path / "a", model_config=told), seed=1)
    said = capsys.readouterr().out
    assert f"holds weights ({weights}) and their average ({average})" in said
    assert "taken is the average, --noaverage takes the weights" in said
    plain.assert_is(to_clipjax(file, tmp_path / "b", model_config=told, average=False), seed=0)
    assert "taken are the weights, not the average" in capsys.readouterr().out


def test_two_models_are_refused_and_one_alone_is_read(tmp_path, told):
    file = save(tmp_path / "x.pt", {"student": tensors(), "teacher": tensors(seed=1)})
    with pytest.raises(DataError, match=r"2 models .student, teacher.; save the one that you want"):
        to_clipjax(file, tmp_path / "out", model_config=told)
    save(file, tensors(seed=1))
    plain.assert_is(to_clipjax(file, tmp_path / "out", model_config=told), seed=1)


def test_python_objects_beside_the_tensors_are_named(tmp_path, told):
    settings = argparse.Namespace(model="ViT-B-32")
    file = save(tmp_path / "x.pt", {"model": tensors(), "args": settings})
    with pytest.raises(DataError, match=r"objects .argparse\.Namespace., not tensors") as caught:
        to_clipjax(file, tmp_path / "out", model_config=told)
    assert "torch.save(model.state_dict()" in str(caught.value)
    save(file, tensors())
    plain.assert_is(to_clipjax(file, tmp_path / "out", model_config=told))


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, 7], ids=str)
def test_what_holds_no_tensors_is_one_line(content, tmp_path, told):
    file = save(tmp_path / "x.pt", content)
    with pytest.raises(CleanExit, match=r"x\.pt: holds no") as caught:
        to_clipjax(file, tmp_path / "out", model_config=told)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("to", ["open_clip", "huggingface"])
def test_a_folder_that_holds_a_pickle_alone(to, tmp_path, capsys):
    """Its settings are read; the command in the message does it."""
    small.write(tmp_path / "a", MODEL, to=to)
    (file,) = (tmp_path / "a").glob("*.safetensors")
    file.unlink()
    pickled = {"open_clip": "open_clip_pytorch_model.bin", "huggingface": "pytorch_model.bin"}[to]
    layout = huggingface.layout() if to == "huggingface" else None
    save(tmp_path / "a" / pickled, tensors(layout=layout))
    save(tmp_path / "a" / "optimizer.pt", {"state": {}})
    for path in (tmp_path / "a", tmp_path / "a" / pickled):
        with pytest.raises(CleanExit, match="if you trust it, python -m") as caught:
            clipjax.load(path)
        command = re.search(r"python (-m .* --output=)FOLDER", str(caught.value))[1]
        output = tmp_path / f"out-{path.name}"
        done = subprocess.run(
            [sys.executable, *shlex.split(command + str(output))], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        plain.assert_is(output)


def test_pickles_in_numbered_parts(tmp_path):
    small.write(tmp_path / "a", MODEL, to="huggingface")
    (tmp_path / "a" / "model.safetensors").unlink()
    content = tensors(layout=huggingface.layout())
    names = sorted(content)
    for i in (1, 2):
        part = {name: content[name] for name in names[i - 1 :: 2]}
        save(tmp_path / "a" / f"pytorch_model-0000{i}-of-00002.bin", part)
    plain.assert_is(to_clipjax(tmp_path / "a", tmp_path / "out"))
    file = tmp_path / "a" / "pytorch_model-00001-of-00002.bin"
    plain.assert_is(to_clipjax(file, tmp_path / "again"))
    (tmp_path / "a" / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(DataError, match=r"pytorch_model-00002-of-00002\.bin is missing"):
        to_clipjax(tmp_path / "a", tmp_path / "third")


def test_the_flag_changes_nothing_of_files_that_are_no_pickles(tmp_path):
    small.write(tmp_path / "a", MODEL, to="open_clip")
    plain.assert_is(to_clipjax(tmp_path / "a", tmp_path / "out"))
    with pytest.raises(CleanExit, match="weights alone"):
        to_clipjax(plain.save(tmp_path / "b" / "x.safetensors", plain.arrays()), tmp_path / "c")


@pytest.mark.parametrize(("head_width", "activation"), [(64, "gelu"), (80, "quick_gelu")])
def test_the_features_of_what_open_clip_trained(head_width, activation, tmp_path):
    """Its own model and checkpoint, GELU or QuickGELU, heads of 64 or of 80."""
    import numpy as np
    import open_clip as peer
    import torch

    vision = {"layers": 2, "width": 320, "head_width": head_width, "patch_size": 8}
    settings = {
        "embed_dim": 64,
        "quick_gelu": activation == "quick_gelu",
        "vision_cfg": vision | {"image_size": 32},
        "text_cfg": {"context_length": 12, "vocab_size": 520, "width": 64, "heads": 1, "layers": 1},
    }
    torch.manual_seed(0)
    model = peer.CLIP(**settings).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim >= 2 and "embedding" not in name:
                value.normal_(std=2 * value[0].numel() ** -0.5)
    content = {"epoch": 5, "name": "x", "state_dict": dict(model.state_dict())}
    file = save(tmp_path / "epoch_5.pt", content)
    named = plain.write(tmp_path / "model.json", settings)
    ours = clipjax.load(to_clipjax(file, tmp_path / "out", model_config=str(named)))
    assert ours.config.model.activation == activation

    pictures = np.stack(small.images())
    pixels = (pictures / 255 - np.array(peer.OPENAI_DATASET_MEAN)) / peer.OPENAI_DATASET_STD
    with torch.no_grad():
        image = torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32)
        theirs = model.encode_image(image, normalize=True).numpy()
    np.testing.assert_allclose(ours.encode_image(list(pictures)), theirs, atol=1e-5)
    ids, _ = ours.tokenizer.encode(small.TEXTS)
    with torch.no_grad():
        theirs = model.encode_text(torch.tensor(ids).long(), normalize=True).numpy()
    np.testing.assert_allclose(ours.encode_text(small.TEXTS), theirs, atol=1e-5)


def test_a_torchscript_archive_is_the_release(tmp_path):
    """With its numbers; what follows from that is said."""
    import torch

    from tests.weights import peers

    class Weights(torch.nn.Module):
        def state_dict(self):
            arrays = plain.arrays(small.model())
            return {name: torch.from_numpy(value.copy()) for name, value in arrays.items()}

    file = tmp_path / "ViT.pt"
    peers.save_release(file, Weights())
    (tmp_path / "clip_merges.txt").write_bytes(small.MERGES)
    output = to_clipjax(file, tmp_path / "out")
    run = pretrained.read(output)[1]
    assert run["imported"] == "ViT.pt, OpenAI's"
    assert json.dumps(run["notes"]).count("activation quick_gelu") == 1
    assert run["config"]["model"]["activation"] == "quick_gelu"


def test_safetensors_that_cannot_be_written_are_no_fault_of_the_pickle(tmp_path):
    save(tmp_path / "weights.pt", tensors())
    (tmp_path / "taken").mkdir()
    with pytest.raises(WriteError, match=r"taken: cannot be written: .*make room"):
        torch_pickles.to_safetensors(tmp_path / "weights.pt", tmp_path / "taken")
