"""What other programs' JSON may hold anywhere: taken as they take it, or refused in one line."""

import copy
import json
import shutil

import pytest

from clipjax.build import pretrained
from clipjax.common.exits import CleanExit
from clipjax.data.tokenizers.siglip import SiglipTokenizer
from clipjax.models import config as model_config
from clipjax.weights import formats
from tests.weights import small, vocabulary
from tests.weights import test_state_dicts as plain

TOWER_NAMES = ("vision", "text")
VALUES = (None, "", [], [32, 32], [32, 48], "x", -1, 0, 1e30, True, {})
EACH = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
TOWER = (*EACH, "hidden_act", "layer_norm_eps")
VISION = tuple(f"vision_config.{key}" for key in (*TOWER, "image_size", "patch_size"))
TEXT = tuple(f"text_config.{key}" for key in (*TOWER, "vocab_size", "max_position_embeddings"))
TOWERS = ("vision_config", "text_config", *VISION, *TEXT)
STEPS = ("do_resize", "do_rescale", "do_normalize", "do_center_crop", "do_pad", "resample")
PIXELS = ("image_mean", "image_std", "rescale_factor", "size", "image_processor_type")
SIZES = ("crop_size", "size.shortest_edge", "crop_size.height", "crop_size.width")
OPEN_CLIP_TOWER = ("width", "layers", "mlp_ratio", "act_kwargs", "norm_kwargs", "pool_type")
OPEN_CLIP_VISION = ("image_size", "patch_size", "head_width", "no_ln_pre", "timm_model_name")
OPEN_CLIP_TEXT = (
    *("context_length", "vocab_size", "heads", "no_causal_mask", "proj_bias"),
    *("tokenizer_kwargs", "hf_model_name"),
)
OPEN_CLIP = (
    *("model_cfg", "model_cfg.embed_dim", "model_cfg.quick_gelu", "model_cfg.init_logit_bias"),
    *("model_cfg.vision_cfg", "model_cfg.text_cfg", "preprocess_cfg"),
    *(f"model_cfg.vision_cfg.{key}" for key in (*OPEN_CLIP_TOWER, *OPEN_CLIP_VISION)),
    *(f"model_cfg.text_cfg.{key}" for key in (*OPEN_CLIP_TOWER, *OPEN_CLIP_TEXT)),
    *(f"preprocess_cfg.{key}" for key in ("mean", "std", "interpolation", "resize_mode", "mode")),
)
# File of a folder → the keys that are changed in it.
FILES = {
    "huggingface": {
        "config.json": ("model_type", "projection_dim", *TOWERS, "text_config.eos_token_id"),
        "preprocessor_config.json": (*STEPS, *PIXELS, *SIZES),
    },
    "siglip": {
        "config.json": (*TOWERS, "vision_config.vision_use_head", "text_config.projection_size"),
        "preprocessor_config.json": (*STEPS, *PIXELS, "size.height", "size.width"),
    },
    "open_clip": {"open_clip_config.json": OPEN_CLIP},
}
NULL = {"null": {}}
EMPTY = {"null": {}, "{}": {}}
YES = {"true": {}}
SQUARE = {"[32, 32]": {}}
STATED = NULL | YES  # a switch that says what is done in any case
PREPARED = {
    **dict.fromkeys(("do_resize", "do_rescale", "do_normalize", "do_center_crop"), STATED),
    **dict.fromkeys(("do_pad", "resample", "rescale_factor", "image_processor_type"), NULL),
    **dict.fromkeys(("image_mean", "image_std"), NULL),
}
# File → key → the values that are taken, as JSON, and what they change. Null is where the format
# says what it means; all else is refused.
TAKEN = {
    ("huggingface", "config.json"): {
        "vision_config.image_size": SQUARE,
    },
    ("huggingface", "preprocessor_config.json"): PREPARED
    | {
        "size": NULL | {"[32, 32]": {"image_resize": "squash"}},
        "crop_size": NULL | SQUARE,
    },
    ("siglip", "config.json"): {
        "vision_config.image_size": SQUARE,
        "vision_config.vision_use_head": YES,
    },
    ("siglip", "preprocessor_config.json"): PREPARED | {"size": NULL | SQUARE},
    ("open_clip", "open_clip_config.json"): {
        "model_cfg.quick_gelu": {"true": {"activation": "quick_gelu"}},
        # Where a bias begins; whether there is one the weights say.
        "model_cfg.init_logit_bias": NULL | {"-1": {}, "0": {}, "1e+30": {}},
        "model_cfg.vision_cfg.image_size": SQUARE,
        "model_cfg.vision_cfg.timm_model_name": NULL,
        "model_cfg.text_cfg.hf_model_name": NULL,
        "model_cfg.text_cfg.no_causal_mask": {"true": {"text.causal": False}},
        "model_cfg.text_cfg.tokenizer_kwargs": EMPTY,
        **{f"model_cfg.{tower}_cfg.act_kwargs": EMPTY for tower in ("vision", "text")},
        **{f"model_cfg.{tower}_cfg.norm_kwargs": EMPTY for tower in ("vision", "text")},
        "preprocess_cfg": EMPTY,
        **{
            f"preprocess_cfg.{key}": NULL
            for key in ("mean", "std", "interpolation", "resize_mode", "mode")
        },
    },
}


def changed(config, key, value):
    config = copy.deepcopy(config)
    *path, last = key.split(".")
    part = config
    for name in path:
        part = part[name]
    part[last] = value
    return config


def flat(model):
    """A model's settings, those of its towers under "vision.…" and "text.…"."""
    towers = {f"{tower}.{key}": model[tower][key] for tower in TOWER_NAMES for key in model[tower]}
    return {key: value for key, value in model.items() if key not in TOWER_NAMES} | towers


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each kind that reads well."""
    root = tmp_path_factory.mktemp("formats")
    model = small.model(activation="gelu", vision={"patch_size": 8})
    for kind in ("huggingface", "open_clip"):
        small.write(root / kind, model, to=kind)
    tokenizer = SiglipTokenizer(
        vocabulary.t5_like(root, vocab_size=320).read_bytes(), context_length=8
    )
    variables = small.variables(small.siglip())
    formats.write(
        root / "siglip",
        to="huggingface",
        model=small.siglip(),
        variables=variables,
        tokenizer=tokenizer,
    )
    return root


def outcome(folder):
    """The model, with its weights read; None where one line refused."""
    try:
        _, run = pretrained.read(folder)
        return flat(model_config.complete(run["config"]["model"]))
    except CleanExit as error:
        line = str(error)
        assert "\n" not in line and len(line) < 400 and folder.name in line
        assert error.code in (64, 65)
        return None


@pytest.mark.parametrize(
    ("kind", "file"), [(kind, file) for kind, files in FILES.items() for file in files]
)
def test_any_value_anywhere_is_right_or_one_line(kind, file, folders):
    place = folders / kind / file
    config = json.loads(place.read_text())
    right = outcome(folders / kind)
    assert right is not None
    taken: dict = {}
    try:
        for key in FILES[kind][file]:
            for value in VALUES:
                place.write_text(json.dumps(changed(config, key, value)))
                model = outcome(folders / kind)
                if model is not None:
                    differs = {name: model[name] for name in model if model[name] != right[name]}
                    taken.setdefault(key, {})[json.dumps(value)] = differs
    finally:
        place.write_text(json.dumps(config))
    assert taken == TAKEN[kind, file]


@pytest.mark.long
def test_any_value_in_an_index_or_a_run_s_settings_is_one_line(folders, tmp_path):
    parts, index = plain.split(shutil.copytree(folders / "huggingface", tmp_path / "a"), "model")
    name = next(iter(index["weight_map"]))
    wrong = [index | {"weight_map": value} for value in VALUES]
    wrong += [{"weight_map": {name: value}} for value in (*VALUES, "", "y" * 999, "../x", "a/b")]
    for content in wrong:
        (parts[0].parent / "model.safetensors.index.json").write_text(json.dumps(content))
        assert outcome(tmp_path / "a") is None, content

    file = plain.save(tmp_path / "b" / "x.safetensors", plain.arrays())
    told = tmp_path / "told.json"
    right = plain.of_run(plain.MODEL)
    keys = ["model", "model.vision", "model.text", *(f"model.{key}" for key in right["model"])]
    keys += [f"model.{t}.{key}" for t in TOWER_NAMES for key in right["model"][t]]
    for key in keys:
        for value in (*VALUES, "y" * 999):
            told.write_text(json.dumps(changed(right, key, value)))
            try:
                run = pretrained.read(file, model_config=str(told))[1]
            except CleanExit as error:
                assert "\n" not in str(error) and len(str(error)) < 600
            else:  # how a run computed is nothing of its model's
                assert key.split(".")[-1] in ("name", "scan", "dtype", "param_dtype", "remat")
                assert run["config"]["model"]["vision"]["head_width"] == 32
