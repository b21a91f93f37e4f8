"""The named models: the released shapes and parameter counts, and the checks of a shape."""

import subprocess
import sys

import pytest

from clipjax.common.exits import ConfigError
from clipjax.models import zoo


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("ViT-B/32", 151_277_313),
        ("ViT-B/16", 149_620_737),
        ("ViT-L/14", 427_616_513),
        ("ViT-L/14@336px", 427_944_193),
    ],
)
def test_parameter_count_equals_the_released_model(name, count):
    assert zoo.parameter_count(name) == count


def test_get_returns_an_independent_copy():
    zoo.get("ViT-B/32")["vision"]["width"] = 1
    assert zoo.get("ViT-B/32")["vision"]["width"] == 768


def test_unknown_name_names_the_closest():
    with pytest.raises(ConfigError, match='did you mean "ViT-B/32"'):
        zoo.get("ViT-B-32")


def test_import_needs_no_jax_and_no_numpy():
    code = (
        "import sys; from clipjax.models import zoo; zoo.check(zoo.get('ViT-B/32'));"
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
        ("text", "heads", 7, r"model\.text\.width is 512, not a multiple of"),
        ("text", "vocab_size", 1.5, r"model\.text\.vocab_size is 1\.5"),
        (None, "embed_dims", 512, r'model\.embed_dims .*did you mean "embed_dim"'),
    ],
)
def test_check_names_the_wrong_setting(section, key, value, message):
    model = zoo.get("ViT-B/32")
    (model[section] if section else model)[key] = value
    with pytest.raises(ConfigError, match=message):
        zoo.check(model)


def test_check_names_a_missing_setting():
    model = zoo.get("ViT-B/32")
    del model["text"]["width"]
    with pytest.raises(ConfigError, match=r"model\.text\.width is missing"):
        zoo.check(model)
