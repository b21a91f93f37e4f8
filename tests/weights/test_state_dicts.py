"""Weights in a file of their own: what they do not say is told by a file, a flag or not at all."""

import itertools
import json
import shutil
import sys

import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

import clipjax
from clipjax import convert
from clipjax.build import pretrained
from clipjax.common.exits import CleanExit, ConfigError, DataError
from clipjax.models import zoo
from clipjax.weights import huggingface, huggingface_folder, open_clip, openai
from tests.weights import small

# Heads of another width than OpenAI's, and another activation: a guess would be wrong.
MODEL = small.model(activation="gelu", vision={"head_width": 32}, text={"heads": 4})
NUMBERS = {
    "input_resolution": np.array(32),
    "context_length": np.array(12),
    "vocab_size": np.array(520),
}


def arrays(model=MODEL, *, seed=0, layout=None):
    """A state dict under OpenAI's names, or those of another layout."""
    return small.theirs(small.params(model, seed=seed), layout=layout or openai.layout(model))


def save(file, tensors):
    """A file of weights, CLIP's merges beside it and nothing else."""
    file.parent.mkdir(parents=True, exist_ok=True)
    (file.parent / "clip_merges.txt").write_bytes(small.MERGES)
    safetensors_numpy.save_file(tensors, file)
    return file


def config(model=MODEL):
    return open_clip.config_of(model, own_tokenizer=False)


def write(file, content):
    file.write_text(json.dumps(content))
    return file


def model_of(path, **options):
    return pretrained.read(path, **options)[1]["config"]["model"]


def assert_is(path, expected=MODEL, *, seed=0, **options):
    """What was read is the model, its weights to the bit."""
    variables, run = pretrained.read(path, **options)
    small.assert_equal(variables["params"], small.params(expected, seed=seed))
    found = run["config"]["model"]
    assert found["activation"] == expected["activation"]
    assert found["vision"]["head_width"] == expected["vision"].get("head_width", 64)
    assert found["text"]["heads"] == expected["text"]["heads"]
    return run


def test_weights_alone_are_refused_with_what_to_do(tmp_path):
    file = save(tmp_path / "epoch_5.safetensors", arrays())
    for read in (clipjax.load, lambda path: convert_to(path, tmp_path / "out")):
        with pytest.raises(ConfigError, match="neither activation nor heads nor how images") as e:
            read(str(file))
        line = str(e.value)
        assert str(file) in line and "\n" not in line and len(line) < 500
        assert "--model_config=" in line and open_clip.CONFIG in line
    assert not (tmp_path / "out").exists()


def convert_to(path, output, **options):
    return convert.convert(str(path), to="clipjax", output=str(output), **options)


def test_settings_beside_the_weights_are_read(tmp_path):
    file = save(tmp_path / "a" / "any_name.safetensors", arrays())
    write(tmp_path / "a" / open_clip.CONFIG, config())
    assert_is(file)
    assert_is(tmp_path / "a")  # the only file of weights there
    small.write(tmp_path / "b", MODEL, to="huggingface")
    assert_is(tmp_path / "b" / huggingface_folder.WEIGHTS)


def test_the_names_of_the_arrays_say_whose_settings_count(tmp_path):
    """Repositories of the hub have both programs' files in one folder."""
    small.write(tmp_path / "a", small.model(), to="open_clip")
    small.write(tmp_path / "b", MODEL, to="huggingface")
    for file in (tmp_path / "b").iterdir():
        if not (tmp_path / "a" / file.name).exists():
            shutil.copy(file, tmp_path / "a")
    assert_is(tmp_path / "a" / "open_clip_model.safetensors", small.model())
    assert_is(tmp_path / "a", small.model())
    (tmp_path / "a" / "open_clip_model.safetensors").unlink()
    assert_is(tmp_path / "a")


def of_run(model):
    """As the config.json of a work directory has it."""
    how = {"name": "custom", "scan": True, "dtype": "bfloat16", "param_dtype": "float32"}
    towers = {tower: model[tower] | {"remat": "block"} for tower in ("vision", "text")}
    return {"model": model | how | towers, "seed": 0}


@pytest.mark.parametrize(
    "content", [config(), config()["model_cfg"], of_run(MODEL)], ids=["folder's", "built-in", "run"]
)
def test_a_file_says_what_the_model_is(content, tmp_path):
    file = save(tmp_path / "weights" / "epoch_5.safetensors", arrays())
    named = str(write(tmp_path / "told.json", content))
    assert_is(file, model_config=named)
    convert_to(file, tmp_path / "out", model_config=named)
    assert_is(tmp_path / "out")
    loaded = clipjax.load(file, model_config=named)
    assert loaded.config.model.activation == "gelu"
    assert_is(tmp_path / "weights", model_config=named)  # the folder of the file


def test_images_are_prepared_as_the_file_says(tmp_path):
    file = save(tmp_path / "epoch_5.safetensors", arrays())
    images = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.3], "resize_mode": "squash"}
    named = write(tmp_path / "told.json", config() | {"preprocess_cfg": images})
    run = pretrained.read(file, model_config=str(named))[1]
    assert "notes" not in run
    found = run["config"]["model"]
    assert (found["image_mean"], found["image_resize"]) == ((0.5, 0.4, 0.3), "squash")
    named = write(tmp_path / "told.json", config()["model_cfg"])
    (note,) = pretrained.read(file, model_config=str(named))[1]["notes"]
    assert "no preprocess_cfg says mean, std, resize_mode" in note and "crop, mean (0.4815" in note


def test_transformers_settings_say_it_too(tmp_path):
    small.write(tmp_path / "a", MODEL, to="huggingface")
    file = save(tmp_path / "alone" / "model.safetensors", arrays(layout=huggingface.layout()))
    assert_is(file, model_config=str(tmp_path / "a" / "config.json"))
    with pytest.raises(ConfigError, match=r"put their config\.json beside them"):
        pretrained.read(file)


def test_a_name_of_the_zoo_says_it(tmp_path, monkeypatch):
    monkeypatch.setitem(zoo.MODELS, "ViT-tiny/16", small.model(logit_bias=False))
    file = save(tmp_path / "epoch_5.safetensors", arrays(small.model()))
    assert_is(file, small.model(), model_config="ViT-tiny/16")


def test_a_name_of_an_installed_open_clip_says_it(tmp_path, monkeypatch):
    known = tmp_path / "packages" / "open_clip" / "model_configs"
    known.mkdir(parents=True)
    (known.parent / "__init__.py").write_text("raise ImportError('never imported')")
    write(known / "ViT-tiny-16.json", config()["model_cfg"])
    write(
        known / "ViT-tiny-16-quickgelu.json",
        config(MODEL | {"activation": "quick_gelu"})["model_cfg"],
    )
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    monkeypatch.delitem(sys.modules, "open_clip", raising=False)
    file = save(tmp_path / "epoch_5.safetensors", arrays())
    assert_is(file, model_config="open_clip:ViT-tiny-16")
    quick = model_of(file, model_config="open_clip:ViT-tiny-16-quickgelu")
    assert quick["activation"] == "quick_gelu"
    for name in ("ViT-tiny/16", "../open_clip/model_configs/ViT-tiny-16"):
        with pytest.raises(ConfigError, match="the installed open_clip has none"):
            pretrained.read(file, model_config=f"open_clip:{name}")


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("ViT-B-32", "nor a name of the zoo .*ViT-B/32.*open_clip:NAME, and may have another act"),
        ("nowhere.json", "is no file .looked from"),
        (".", "is a folder; name the JSON file in it"),
        ("{" + '"embed_dim": 512, ' * 99 + "}", "is no file .looked from"),
    ],
)
def test_what_names_no_model_is_one_line(named, message, tmp_path):
    file = save(tmp_path / "epoch_5.safetensors", arrays())
    with pytest.raises(ConfigError, match=message) as caught:
        pretrained.read(file, model_config=named)
    assert "\n" not in str(caught.value)


def test_a_run_and_big_vision_s_file_say_themselves_what_they_are(tmp_path):
    file = save(tmp_path / "epoch_5.safetensors", arrays())
    named = str(write(tmp_path / "told.json", config()))
    convert_to(file, tmp_path / "run", model_config=named)
    with pytest.raises(ConfigError, match="says itself what its model is; drop model_config"):
        pretrained.read(tmp_path / "run", model_config=named)
    assert_is(tmp_path / "run")
    np.savez(tmp_path / "siglip.npz", a=np.ones(3))
    with pytest.raises(ConfigError, match="takes no model_config"):
        pretrained.read(tmp_path / "siglip.npz", model_config=named)


def test_sizes_that_are_not_the_weights_are_named(tmp_path):
    file = save(tmp_path / "epoch_5.safetensors", arrays())
    other = write(tmp_path / "told.json", config(small.model(vision={"layers": 3})))
    with pytest.raises(DataError, match=r"visual\.transformer\.resblocks\.2\..* is missing"):
        pretrained.read(file, model_config=str(other))


def test_openai_s_numbers_make_a_state_dict_the_release_s(tmp_path, capsys):
    """Three of them, which no other program writes; what follows is said."""
    released = small.model()
    file = save(tmp_path / "ViT.safetensors", arrays(released) | NUMBERS)
    run = assert_is(file, released)
    (note,) = run["notes"]
    assert "OpenAI's release: activation quick_gelu" in note and "heads 64 wide" in note
    convert_to(file, tmp_path / "out")
    assert note in capsys.readouterr().out
    assert pretrained.read(tmp_path / "out")[1]["notes"] == [note]
    two = {name: value for name, value in NUMBERS.items() if name != "vocab_size"}
    with pytest.raises(ConfigError, match="weights alone"):
        pretrained.read(save(tmp_path / "b" / "x.safetensors", arrays(released) | two))


def test_a_bias_of_the_logits_is_told_by_the_weights(tmp_path):
    """open_clip's --siglip adds one that its model's settings do not mention."""
    biased = {**MODEL, "logit_bias": True}
    file = save(tmp_path / "epoch_5.safetensors", arrays(biased))
    named = str(write(tmp_path / "told.json", config()))
    assert assert_is(file, biased, model_config=named)["config"]["model"]["logit_bias"]


def test_open_clip_s_text_tower_apart(tmp_path):
    """--force-custom-text puts the text tower under a word of its own."""
    layout = openai.layout(MODEL, text="text.")
    file = save(tmp_path / "epoch_5.safetensors", arrays(layout=layout))
    assert any(name.startswith("text.") for name in safetensors_numpy.load_file(file))
    assert_is(file, model_config=str(write(tmp_path / "told.json", config())))


WORDS = ("module", "_orig_mod", "model")
ORDERS = [o for count in (1, 2, 3) for o in itertools.permutations(WORDS, count)]


@pytest.mark.parametrize("words", ORDERS, ids=".".join)
def test_wrappers_in_any_order(words, tmp_path):
    prefix = ".".join(words) + "."
    tensors = {prefix + name: value for name, value in arrays().items()}
    file = save(tmp_path / "epoch_5.safetensors", tensors)
    assert_is(file, model_config=str(write(tmp_path / "told.json", config())))


def test_wrappers_inside_and_of_a_part_only(tmp_path):
    """FSDP wraps blocks, torch.compile may wrap one tower; an average counts its steps."""

    def wrapped(name):
        name = name.replace("resblocks.1.", "resblocks.1._fsdp_wrapped_module.")
        return f"visual._orig_mod.{name[7:]}" if name.startswith("visual.") else f"clip.{name}"

    tensors = {wrapped(name).replace("clip.", ""): value for name, value in arrays().items()}
    tensors["n_averaged"] = np.array(5)
    file = save(tmp_path / "epoch_5.safetensors", tensors)
    assert_is(file, model_config=str(write(tmp_path / "told.json", config())))


def test_a_model_inside_another_is_found_and_what_else_is_there_is_named(tmp_path):
    tensors = {f"student.clip.{name}": value for name, value in arrays().items()}
    named = str(write(tmp_path / "told.json", config()))
    assert_is(save(tmp_path / "a.safetensors", tensors), model_config=named)
    tensors["head.weight"] = np.ones((3, 16), np.float32)
    with pytest.raises(DataError, match=r"head\.weight has no place in this model"):
        pretrained.read(save(tmp_path / "b.safetensors", tensors), model_config=named)


def test_the_same_array_twice_is_refused(tmp_path):
    tensors = arrays() | {"module.logit_scale": np.array(1.0, np.float32)}
    named = str(write(tmp_path / "told.json", config()))
    with pytest.raises(DataError, match=r"module\.logit_scale and logit_scale are the same array"):
        pretrained.read(save(tmp_path / "a.safetensors", tensors), model_config=named)


@pytest.mark.parametrize("word", ["ema", "model_ema.module", "ema_model", "averaged_model", "swa"])
def test_a_moving_average_beside_the_weights(word, tmp_path, capsys):
    """Which is taken is said; the other is asked for as a run's is."""
    both = {f"model.{name}": value for name, value in arrays().items()}
    both |= {f"{word}.{name}": value for name, value in arrays(seed=1).items()}
    file = save(tmp_path / "both.safetensors", both)
    named = str(write(tmp_path / "told.json", config()))
    (note,) = [n for n in assert_is(file, seed=1, model_config=named)["notes"] if "taken" in n]
    assert "taken is the average, --noaverage takes the weights" in note
    run = assert_is(file, seed=0, average=False, model_config=named)
    assert any("taken are the weights, not the average" in note for note in run["notes"])
    convert_to(file, tmp_path / "out", average=False, model_config=named)
    assert "note: holds weights" in capsys.readouterr().out
    assert_is(tmp_path / "out", seed=0)


def test_several_models_are_refused_and_one_alone_is_read(tmp_path):
    parts = {
        word: {f"{word}.{name}": value for name, value in arrays(seed=seed).items()}
        for seed, word in enumerate(("student", "teacher"))
    }
    named = str(write(tmp_path / "told.json", config()))
    file = save(tmp_path / "both.safetensors", parts["student"] | parts["teacher"])
    with pytest.raises(DataError, match=r"2 models .student, teacher.; save the one that you want"):
        pretrained.read(file, model_config=named)
    assert_is(save(file, parts["teacher"]), seed=1, model_config=named)


def test_what_is_no_clip_is_named(tmp_path):
    file = save(tmp_path / "a.safetensors", {"fc.weight": np.ones((2, 2), np.float32)})
    with pytest.raises(DataError, match=r"no CLIP: token_embedding\.weight is missing among 1"):
        pretrained.read(file)


def split(folder, stem, *, ending=".safetensors"):
    """The folder's one file of weights in two, named as transformers names parts."""
    (file,) = folder.glob("*.safetensors")
    tensors = safetensors_numpy.load_file(file)
    file.unlink()
    names = sorted(tensors)
    parts = [folder / f"{stem}-0000{i}-of-00002{ending}" for i in (1, 2)]
    for part, mine in zip(parts, (names[::2], names[1::2]), strict=True):
        safetensors_numpy.save_file({name: tensors[name] for name in mine}, part)
    places = {name: parts[i % 2].name for i, name in enumerate(names)}
    return parts, {"weight_map": places}


@pytest.mark.parametrize("to", ["open_clip", "huggingface"])
def test_parts_of_one_model_with_an_index_and_without(to, tmp_path):
    small.write(tmp_path / "a", MODEL, to=to)
    parts, index = split(tmp_path / "a", "model")
    for path in (tmp_path / "a", *parts):
        assert_is(path)
    for name in ("model.safetensors.index.json", "model.safetensors.index.fp16.json"):
        file = write(tmp_path / "a" / name, index)
        for path in (tmp_path / "a", *parts, file):
            assert_is(path)
        file.unlink()
    parts[1].unlink()
    for path in (tmp_path / "a", parts[0]):
        with pytest.raises(DataError, match=r"model-00002-of-00002\.safetensors is missing"):
            pretrained.read(path)


@pytest.mark.parametrize("to", ["open_clip", "huggingface"])
def test_other_names_of_weights(to, tmp_path):
    """A variant's is read where it is the only one, and said; of several one is named."""
    small.write(tmp_path / "a", MODEL, to=to)
    (file,) = (tmp_path / "a").glob("*.safetensors")
    half = file.with_name("model.fp16.safetensors")
    file.rename(half)
    run = assert_is(tmp_path / "a")
    assert "taken is model.fp16.safetensors, the only file of weights there" in run["notes"]
    shutil.copy(half, half.with_name("other.safetensors"))
    with pytest.raises(DataError, match="name the one that you want") as caught:
        pretrained.read(tmp_path / "a")
    assert_is(str(caught.value).rsplit(" ", 1)[1])
    half.rename(file)
    assert "notes" not in assert_is(tmp_path / "a")  # the name that the program itself looks for


def test_a_folder_of_weights_without_settings(tmp_path):
    save(tmp_path / "a" / "epoch_5.safetensors", arrays())
    with pytest.raises(CleanExit, match="weights alone"):
        pretrained.read(tmp_path / "a")
    write(tmp_path / "a" / open_clip.CONFIG, config())
    assert_is(tmp_path / "a")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 605157884\n"


@pytest.mark.parametrize("to", ["open_clip", "huggingface"])
def test_a_file_that_git_lfs_has_not_fetched(to, tmp_path):
    small.write(tmp_path / "a", MODEL, to=to)
    (file,) = (tmp_path / "a").glob("*.safetensors")
    file.write_bytes(POINTER)
    for path in (tmp_path / "a", file):
        with pytest.raises(DataError, match=f"{file.name} is a pointer of Git LFS; git lfs pull"):
            pretrained.read(path)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"architecture": "vit_tiny_patch16_224"}, "is timm's, an image tower alone"),
        ({"model_type": "clip_vision_model"}, r"model_type=.* is not supported; clipjax has clip"),
    ],
)
def test_another_model_is_named_before_its_weights_are_looked_for(settings, told, tmp_path):
    """No advice on pickles of what would be refused in any case."""
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    write(tmp_path / huggingface_folder.CONFIG, settings)
    with pytest.raises(DataError, match=told):
        pretrained.read(tmp_path)
