"""Half precision stays half between other programs' files, and is float32 where clipjax trains."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from clipjax import convert
from clipjax.build import pretrained
from clipjax.weights import arrays, files, huggingface, huggingface_folder, open_clip, openai
from tests.weights import small

HALVES = (np.float16, ml_dtypes.bfloat16)
MODEL = small.model()


def source(folder, cast):
    """A state dict with its settings beside it, each array changed by a function of its name and
    values."""
    tensors = small.theirs(small.params(MODEL), layout=openai.layout(MODEL))
    tensors = {name: cast(name, value) for name, value in tensors.items()}
    safetensors_numpy.save_file(tensors, folder / "model.safetensors")
    files.write_json(folder / open_clip.CONFIG, open_clip.config_of(MODEL, own_tokenizer=True))
    (folder / "clip_merges.txt").write_bytes(small.MERGES)
    return folder / "model.safetensors", tensors


def to(kind, path, folder):
    convert.convert(str(path), to=kind, output=str(folder))
    return folder


def written(folder):
    """The arrays of a folder."""
    (file,) = folder.glob("*.safetensors")
    return safetensors_numpy.load_file(file)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_numbers_of_any_precision_are_read_as_float32(dtype, tmp_path):
    file, mixed = source(tmp_path, lambda _, x: x.astype(dtype) if x.ndim > 1 else x)
    found = pretrained.read_variables(file)["params"]
    wanted = small.theirs(found, layout=openai.layout(MODEL))
    for name, value in wanted.items():
        np.testing.assert_array_equal(value, mixed[name].astype(np.float32), err_msg=name)


@pytest.mark.parametrize("half", HALVES)
def test_a_half_of_the_file_that_is_half_stays_so_both_ways(half, tmp_path):
    """Matrices and a number in half precision, vectors not."""
    file, mixed = source(tmp_path, lambda _, x: x.astype(half) if x.ndim != 1 else x)
    first = to("open_clip", file, tmp_path / "a")
    assert_same(written(first), mixed)
    between = to("huggingface", first, tmp_path / "b")
    assert {str(x.dtype) for x in written(between).values()} == {"float32", np.dtype(half).name}
    assert torch_dtype(between) == "float32"  # in which nothing is lost
    again = to("open_clip", between, tmp_path / "c")
    name = open_clip.WEIGHTS[0]
    assert (again / name).read_bytes() == (first / name).read_bytes()


@pytest.mark.parametrize("half", HALVES)
def test_a_file_all_in_half_precision(half, tmp_path):
    file, tensors = source(tmp_path, lambda _, x: x.astype(half))
    between = to("huggingface", file, tmp_path / "a")
    assert torch_dtype(between) == np.dtype(half).name
    assert_same(written(to("open_clip", between, tmp_path / "b")), tensors)

    trained = to("clipjax", between, tmp_path / "c")
    variables, _ = pretrained.read(trained)
    assert {
        x.dtype.name
        for x in small.theirs(variables["params"], layout=huggingface.layout()).values()
    } == {"float32"}
    wide = {name: value.astype(np.float32) for name, value in tensors.items()}
    assert_same(written(to("open_clip", trained, tmp_path / "d")), wide)
    assert torch_dtype(to("huggingface", trained, tmp_path / "e")) == "float32"


def test_arrays_of_unlike_precision_that_become_one_lose_nothing(tmp_path):
    """Blocks that we stack; query, key and value, which open_clip keeps as one."""
    file, _ = source(tmp_path, lambda _, x: x.astype(np.float16))
    folder = to("huggingface", file, tmp_path / "a")
    tensors = written(folder)
    block = "vision_model.encoder.layers"
    last = f"{block}.1.mlp.fc1.weight"
    tensors[last] = tensors[last].astype(np.float32) + 1e-7
    for i in (0, 1):
        key = f"{block}.{i}.self_attn.k_proj.weight"
        tensors[key] = tensors[key].astype(ml_dtypes.bfloat16)
    safetensors_numpy.save_file(tensors, folder / huggingface_folder.WEIGHTS)

    found = written(to("open_clip", folder, tmp_path / "b"))
    blocks = "visual.transformer.resblocks"
    for i in (0, 1):
        one, three = found[f"{blocks}.{i}.mlp.c_fc.weight"], f"{blocks}.{i}.attn.in_proj_"
        assert (one.dtype, found[f"{three}bias"].dtype) == (np.float32, np.float16)
        np.testing.assert_array_equal(one, tensors[f"{block}.{i}.mlp.fc1.weight"])
        parts = [tensors[f"{block}.{i}.self_attn.{x}_proj.weight"] for x in "qkv"]
        whole = np.concatenate([part.astype(np.float32) for part in parts])
        assert found[f"{three}weight"].dtype == np.float32
        np.testing.assert_array_equal(found[f"{three}weight"], whole)


def test_every_array_lies_at_a_multiple_of_its_width(tmp_path):
    """Readers that map a file want it; a single half number first would shift all others."""
    params = small.params(MODEL)
    params["logit_scale"] = params["logit_scale"].astype(np.float16)
    file = tmp_path / "x.safetensors"
    files.write_safetensors(file, arrays.Written(params, layout=openai.layout(MODEL)))
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    width = {"F16": 2, "F32": 4}
    places = [x for name, x in header.items() if name != "__metadata__"]
    assert {x["dtype"] for x in places} == set(width) and length % 8 == 0
    assert all(x["data_offsets"][0] % width[x["dtype"]] == 0 for x in places)


def torch_dtype(folder):
    """In which transformers loads the model."""
    return json.loads((folder / huggingface_folder.CONFIG).read_text())["torch_dtype"]
