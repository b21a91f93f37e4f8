"""What people bring as weights: cut short, adapters, one tower, other programs' folders."""

import json
import re
import shutil

import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from clipjax.build import pretrained
from clipjax.common import git_lfs
from clipjax.common.exits import CleanExit, DataError
from clipjax.weights import open_clip, openai, torch_pickles
from tests.weights import small

MODEL = small.model(activation="gelu", vision={"head_width": 32}, text={"heads": 4})


def folder(path, *, change=lambda config: None):
    """An open_clip folder, its settings changed."""
    path.mkdir(parents=True)
    arrays = small.theirs(small.params(MODEL, seed=0), layout=openai.layout(MODEL))
    safetensors_numpy.save_file(arrays, path / "open_clip_model.safetensors")
    config = json.loads(json.dumps(open_clip.config_of(MODEL, own_tokenizer=False)))
    change(config)
    (path / "open_clip_config.json").write_text(json.dumps(config))
    (path / "clip_merges.txt").write_bytes(small.MERGES)
    return path


def said(path, **options):
    with pytest.raises(CleanExit) as error:
        pretrained.read(path, **options)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("missing", [1, 1000, 200_000])
def test_a_file_cut_short_says_how_much_is_there(missing, tmp_path):
    weights = folder(tmp_path / "a") / "open_clip_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-missing])
    told = f"cut short: {len(content) - missing:,} of {len(content):,} bytes are there; fetch it"
    assert told in said(tmp_path / "a")


@pytest.mark.parametrize("name", ["clip_merges.txt", "open_clip_config.json"])
def test_a_file_that_git_lfs_has_not_fetched(name, tmp_path):
    path = folder(tmp_path / "a")
    (path / name).write_bytes(git_lfs.POINTER + b".github.com/spec/v1\noid sha256:4d7a\nsize 9\n")
    told = said(path)
    assert name in told and told.endswith(git_lfs.FETCH)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("open_clip_model.safetensors.incomplete", "a download that has not ended"),
        ("flax_model.msgpack", "save_pretrained"),
        ("tf_model.h5", "save_pretrained"),
        ("model.onnx", "made for running alone"),
        ("model.gguf", "made for running alone"),
        ("weights.xyz", "it holds clip_merges.txt, open_clip_config.json, weights.xyz"),
    ],
)
def test_weights_of_other_formats_are_named(name, told, tmp_path):
    path = folder(tmp_path / "a")
    (path / "open_clip_model.safetensors").rename(path / name)
    assert name in said(path) and told in said(path)


def test_an_adapter_is_no_model(tmp_path):
    tmp_path.joinpath("adapter_config.json").write_text('{"peft_type": "LORA"}')
    lora = {"base_model.model.q_proj.lora_A.weight": np.zeros((8, 32), np.float32)}
    safetensors_numpy.save_file(lora, tmp_path / "adapter_model.safetensors")
    assert "merge_and_unload()" in said(tmp_path)


def test_an_image_tower_alone_is_no_clip(tmp_path):
    config = {"architecture": "vit_base_patch16_224", "num_classes": 1000}
    (tmp_path / "config.json").write_text(json.dumps(config))
    tower = {"cls_token": np.zeros((1, 1, 32), np.float32)}
    safetensors_numpy.save_file(tower, tmp_path / "model.safetensors")
    assert "architecture='vit_base_patch16_224' is timm's" in said(tmp_path)


@pytest.mark.parametrize("inside", ["snapshots/0a1b2c", "0_CLIPModel", "text_encoder"])
def test_a_folder_of_models_names_the_one_in_it(inside, tmp_path):
    """Hugging Face's cache, sentence-transformers, diffusers; and the advice works."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "modules.json").write_text("[]")
    below = folder(tmp_path / "models" / inside)
    assert said(tmp_path / "models").endswith(f"name one of those below: {below}")
    assert pretrained.read(below)[1]["config"]["model"]["embed_dim"] == MODEL["embed_dim"]


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("__0_0.distcp", "python -m torch.distributed.checkpoint.format_utils dcp_to_torch"),
        ("global_step9/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", "zero_to_fp32.py . NEW"),
        ("global_step9/zero_pp_rank_3_mp_rank_00_model_states.pt", "zero_to_fp32.py . NEW"),
    ],
)
def test_parts_that_processes_saved_say_what_makes_one_model_of_them(file, told, tmp_path):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_bytes(b"")
    assert told in said(tmp_path)
    assert told in said((tmp_path / file).parent)
    with pytest.raises(CleanExit, match=r"holds parts that .* processes saved"):
        torch_pickles.make_safe(tmp_path, tmp_path)


@pytest.mark.parametrize("inside", ["checkpoints", "global_step9"])
def test_pickles_below_a_folder_are_found_and_not_read(inside, tmp_path):
    """open_clip's logs, DeepSpeed's without ZeRO; the advice is followed to the end."""
    below = tmp_path / inside
    below.mkdir()
    for name in ("epoch_1.pt", "epoch_2.pt"):
        (below / name).write_bytes(b"")
    assert said(tmp_path).endswith(f"name one of those below: {below}")
    assert said(below).endswith(f"name the one that you want, {below / 'epoch_1.pt'}")
    assert "--trust_pickle" in said(below / "epoch_1.pt")
    (below / "epoch_1.pt").unlink()
    assert f"--trust_pickle --input={below} " in said(below)


def test_a_damaged_vocabulary_is_not_taken_for_none(tmp_path):
    """A run that starts from the weights would train another one in its place."""
    path = folder(tmp_path / "a")
    for content in (git_lfs.POINTER + b".github.com/spec/v1\noid sha256:4d7a\nsize 9\n", b"\xff"):
        (path / "clip_merges.txt").write_bytes(content)
        with pytest.raises(DataError, match=re.escape(f"{path}: ")):
            pretrained.read_tokenizer(path)


@pytest.mark.parametrize(
    ("key", "value", "read"),
    [
        ("multimodal_cfg", {"context_length": 76}, False),
        ("note", "mine", False),
        ("custom_text", True, True),
        ("init_logit_scale", 2.6, True),
        ("output_dict", True, True),
        ("note", None, True),
    ],
)
def test_every_setting_of_an_open_clip_model_is_known_or_refused(key, value, read, tmp_path):
    path = folder(tmp_path / "a", change=lambda c: c["model_cfg"].update({key: value}))
    if read:
        pretrained.read(path)
    else:
        assert f"model_cfg.{key}={value!r} is not supported" in said(path)


@pytest.mark.parametrize("name", ["my model [1] 100% 'ü'", "a, b", "{x}", "$HOME #1"])
def test_a_folder_of_any_name(name, tmp_path):
    path = folder(tmp_path / "a")
    shutil.move(path, tmp_path / name)
    pretrained.read(tmp_path / name)
