"""The named models: the released shapes and parameter counts, and the checks of a shape."""

import subprocess
import sys

import pytest

from clipjax.common.exits import ConfigError
from clipjax.models import config as model_config
from clipjax.models import zoo


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("RN50", 102_007_137),
        ("RN101", 119_688_033),
        ("RN50x4", 178_300_601),
        ("RN50x16", 290_979_217),
        ("RN50x64", 623_258_305),
        ("ViT-B/32", 151_277_313),
        ("ViT-B/16", 149_620_737),
        ("ViT-L/14", 427_616_513),
        ("ViT-L/14@336px", 427_944_193),
    ],
)
def test_parameter_count_equals_the_released_model(name, count):
    assert zoo.parameter_count(name) == count


@pytest.mark.parametrize(
    ("name", "millions"),
    [  # open_clip, docs/model_profile.csv
        ("ViT-H/14", 986.11),
        ("ViT-g/14", 1366.68),
        ("ViT-bigG/14", 2539.57),
        ("SigLIP-B/16", 203.16),
        ("SigLIP-B/16@256px", 203.20),
        ("SigLIP-L/16@256px", 652.15),
        ("SigLIP-So400m/14", 877.36),
    ],
)
def test_parameter_count_equals_open_clips(name, millions):
    assert round(zoo.parameter_count(name) / 1e6, 2) == millions


def test_get_returns_an_independent_copy():
    zoo.get("ViT-B/32")["vision"]["width"] = 1
    assert zoo.get("ViT-B/32")["vision"]["width"] == 768


def test_unknown_name_names_the_closest():
    with pytest.raises(ConfigError, match='did you mean "ViT-B/32"'):
        zoo.get("ViT-B-32")


def test_import_needs_no_jax_and_no_numpy():
    code = (
        "import sys; from clipjax.models import zoo; zoo.get('ViT-B/32');"
        "assert not {'jax', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("vision", "image_size", 225, r"model\.vision\.image_size is 225, not a multiple of"),
        ("vision", "head_width", 60, r"model\.vision\.width is 768, not a multiple of"),
        ("vision", "patchsize", 32, r'model\.vision\.patchsize .*did you mean "patch_size"'),
        ("vision", "layers", 0, r"model\.vision\.layers is 0"),
        ("vision", "mlp_ratio", 0, r"model\.vision\.mlp_ratio is 0"),
        ("vision", "kind", "vitt", r'model\.vision\.kind: "vitt" is unknown .*did you mean "vit"'),
        ("vision", "pooling", "map ", r'model\.vision\.pooling: "map " is unknown'),
        ("vision", "class_token", False, r'pooling is "token", but model\.vision\.class_token=F'),
        ("vision", "projection", False, r"needs model\.vision\.width = embed_dim, not 768"),
        ("vision", "ln_pre", 1, r"model\.vision\.ln_pre is 1; give True or False"),
        ("text", "pooling", "eot", r'model\.text\.pooling: "eot" is unknown'),
        (None, "image_std", (1.0, 1.0), r"model\.image_std is .*three numbers"),
        ("text", "heads", 7, r"model\.text\.width is 512, not a multiple of"),
        ("text", "vocab_size", 1.5, r"model\.text\.vocab_size is 1\.5"),
        (None, "embed_dims", 512, r'model\.embed_dims .*did you mean "embed_dim"'),
    ],
)
def test_check_names_the_wrong_setting(section, key, value, message):
    model = zoo.get("ViT-B/32")
    (model[section] if section else model)[key] = value
    with pytest.raises(ConfigError, match=message):
        model_config.parse(model)


def test_check_names_a_missing_setting():
    model = zoo.get("ViT-B/32")
    del model["text"]["width"]
    with pytest.raises(ConfigError, match=r"model\.text\.width is missing"):
        model_config.parse(model)


def test_defaults_are_the_released_models():
    """What an older run stored, without the settings that came later, is the same model."""
    model = zoo.get("ViT-B/32")
    older = {key: model[key] for key in ("embed_dim", "activation")} | {
        "vision": {
            key: model["vision"][key]
            for key in ("image_size", "patch_size", "width", "layers", "head_width", "mlp_ratio")
        },
        "text": {
            key: model["text"][key]
            for key in ("context_length", "vocab_size", "width", "heads", "layers")
        },
    }
    assert model_config.parse(older) == model_config.parse(model)
    assert model_config.complete(older) == model


def test_a_tower_may_have_an_activation_and_an_epsilon_of_its_own():
    model = zoo.get("ViT-B/32")
    model["text"] |= {"activation": "gelu", "layer_norm_epsilon": 1e-6}
    config = model_config.parse(model)
    assert config.tower("text").blocks.activation == "gelu"
    assert config.tower("text").blocks.layer_norm_epsilon == 1e-6
    assert config.tower("vision").blocks.activation == "quick_gelu"
    assert config.tower("vision").blocks.layer_norm_epsilon == 1e-5
    with pytest.raises(ConfigError, match=r"model\.text\.activation=gelu"):
        model_config.uniform(model)
    model["vision"] |= {"activation": "gelu", "layer_norm_epsilon": 1e-6}
    assert model_config.uniform(model)["activation"] == "gelu"
