"""What an `open_clip_config.json` says: taken as open_clip takes it, or refused by name."""

import json

import pytest

from clipjax.build import pretrained
from clipjax.common.exits import DataError
from clipjax.models import config as model_config
from clipjax.models.config import IMAGE_MEAN, IMAGE_STD
from clipjax.weights import open_clip, open_clip_siglip, siglip
from tests.weights import small


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision_cfg": {"timm_model_name": "resnet50"}}, "not read yet|timm_model_name"),
        ({"vision_cfg": {"ls_init_value": 1e-5}}, "ls_init_value=1e-05 is not supported"),
        ({"text_cfg": {"hf_model_name": "roberta"}}, "hf_model_name='roberta' is not supported"),
        ({"text_cfg": {"pool_type": "first"}}, "pool_type='first' is not supported"),
        ({"text_cfg": {"act_kwargs": {"approximate": "tanh"}}}, "different activations"),
        ({"vision_cfg": {"width": 33}}, "no model has such sizes|not"),
        ({"vision_cfg": {"layers": 10**12}}, "no model has such sizes"),
        ({"text_cfg": {"vocab_size": "many"}}, "no model has such sizes"),
    ],
)
def test_settings_that_clipjax_does_not_have_are_named(change, message, tmp_path):
    model = small.model(activation="gelu")
    small.write(tmp_path / "a", model, to="open_clip")
    file = tmp_path / "a" / open_clip.CONFIG
    config = json.loads(file.read_text())
    for part, settings in change.items():
        config["model_cfg"][part] |= settings
    file.write_text(json.dumps(config))
    with pytest.raises(DataError, match=message) as caught:
        pretrained.read_variables(tmp_path / "a")
    assert "\n" not in str(caught.value)


CLIP = {"image_mean": IMAGE_MEAN, "image_std": IMAGE_STD}


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ({}, CLIP | {"image_resize": "crop"}),
        (None, CLIP | {"image_resize": "crop"}),
        ({"interpolation": "random", "size": 7, "fill_color": 9}, CLIP | {"image_resize": "crop"}),
        ({"resize_mode": None, "mean": None}, CLIP | {"image_resize": "crop"}),
        (
            {"resize_mode": "squash", "std": [0.5, 0.4, 0.3], "interpolation": None},
            CLIP | {"image_resize": "squash", "image_std": (0.5, 0.4, 0.3)},
        ),
    ],
)
def test_what_is_null_is_as_if_it_were_left_out(images, expected):
    """As open_clip's merge_preprocess_dict has it, SigLIP's folders included."""
    clip = open_clip.config_of(small.model(), own_tokenizer=False)
    large = open_clip_siglip.config_of(
        siglip.model(
            width=768,
            heads=12,
            vision={"image_size": 224, "patch_size": 16, "layers": 12, "mlp_ratio": 4.0},
            text={
                **{"context_length": 64, "vocab_size": 32_000, "width": 768},
                **{"heads": 12, "layers": 12, "mlp_ratio": 4.0},
            },
            activation="gelu",
        )
    )
    for read, config in ((open_clip.model_of, clip), (open_clip_siglip.model_of, large)):
        found = read(config | {"preprocess_cfg": images})
        assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("images", "named"),
    [
        ({"resize_mode": "longest"}, "preprocess_cfg.resize_mode='longest' is not supported"),
        ({"interpolation": "bilinear"}, "preprocess_cfg.interpolation='bilinear' is not supported"),
        ({"mean": 0.5}, "is missing or misplaced"),
        ([1], "is missing or misplaced"),
    ],
)
def test_other_preprocessing_is_refused_by_name(images, named):
    config = open_clip.config_of(small.model(), own_tokenizer=False)
    with pytest.raises(DataError, match=named):
        open_clip.model_of(config | {"preprocess_cfg": images})


def siglip_config(name="base", patch=16, **text):
    """What open_clip says of a SigLIP, some of the text tower's settings changed."""
    width, layers, heads, hidden = open_clip_siglip.TOWERS[name]
    smallest, activation = open_clip_siglip.VARIANTS[name, patch]
    shape = {"layers": layers, "mlp_ratio": hidden / width}
    model = siglip.model(
        width=width,
        heads=heads,
        activation=activation,
        vision={"image_size": smallest, "patch_size": patch, **shape},
        text={**shape, "context_length": 64, "vocab_size": 32_000, "width": width, "heads": heads},
    )
    config = open_clip_siglip.config_of(model_config.complete(model))
    config["model_cfg"]["text_cfg"] |= text
    return config


@pytest.mark.parametrize("variant", open_clip_siglip.VARIANTS)
def test_both_towers_of_a_siglip_have_the_activation_that_timm_computes(variant):
    _, activation = open_clip_siglip.VARIANTS[variant]
    right = siglip_config(*variant)
    assert open_clip_siglip.model_of(right)["activation"] == activation
    other = {"approximate": "none" if activation == "gelu_tanh" else "tanh"}
    with pytest.raises(DataError, match="with different activations; take the model as transf"):
        open_clip_siglip.model_of(siglip_config(*variant, act_kwargs=other))
    model = open_clip_siglip.model_of(right)
    model["activation"] = "gelu" if activation == "gelu_tanh" else "gelu_tanh"
    with pytest.raises(DataError, match=r"activation=.* write --format=huggingface"):
        open_clip_siglip.config_of(model_config.complete(model))


@pytest.mark.interop
@pytest.mark.parametrize("variant", open_clip_siglip.VARIANTS)
def test_timm_has_these_towers_and_computes_them_so(variant):
    import timm
    import torch

    smallest, activation = open_clip_siglip.VARIANTS[variant]
    name, patch = variant
    width, layers, heads, hidden = open_clip_siglip.TOWERS[name]
    with torch.device("meta"):
        tower = timm.create_model(f"vit_{name}_patch{patch}_siglip_{smallest}", num_classes=0)
    block = tower.blocks[0]
    sizes = (block.attn.num_heads, len(tower.blocks), block.mlp.fc1.out_features, tower.embed_dim)
    assert sizes == (heads, layers, hidden, width)
    x = torch.linspace(-3, 3, 50)
    form = "tanh" if activation == "gelu_tanh" else "none"
    expected = torch.nn.functional.gelu(x, approximate=form)
    for mlp in (block.mlp, tower.attn_pool.mlp):
        torch.testing.assert_close(mlp.act(x), expected)
    norms = (block.norm1, block.norm2, tower.norm, tower.attn_pool.norm)
    assert {norm.eps for norm in norms} == {open_clip_siglip.EPSILON}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ({"norm_kwargs": None}, "norm_kwargs=None is not the image tower's epsilon of 1e-06"),
        ({"no_causal_mask": False}, "no SigLIP's text tower .causal"),
        ({"pool_type": "argmax"}, "no SigLIP's text tower .pooling"),
        ({"tokenizer_kwargs": {"clean": "lower"}}, "clean='lower' is not supported"),
    ],
)
def test_another_text_tower_than_siglip_s_is_refused(text, named):
    with pytest.raises(DataError, match=named):
        open_clip_siglip.model_of(siglip_config(**text))


def test_towers_of_two_epsilons_are_refused():
    config = open_clip.config_of(small.model(), own_tokenizer=False)
    config["model_cfg"]["vision_cfg"]["norm_kwargs"] = {"eps": 1e-6}
    with pytest.raises(DataError, match="the towers have different norm_kwargs"):
        open_clip.model_of(config)
    config["model_cfg"]["text_cfg"]["norm_kwargs"] = {"eps": 1e-6}
    assert open_clip.model_of(config)["layer_norm_epsilon"] == 1e-6


def test_texts_that_open_clip_would_clean_otherwise_are_refused():
    config = open_clip.config_of(small.model(), own_tokenizer=False)
    text = config["model_cfg"]["text_cfg"]
    for options, hub_name, named in (
        ({"clean": "canonicalize"}, "", "clean='canonicalize' is not supported"),
        ({"clean": "whitespace"}, "", "clean='whitespace' is not supported"),
        ({"strip_sep_token": True}, "some/tokenizer", "tokenizer_kwargs=.* is not supported"),
    ):
        text.update(tokenizer_kwargs=options, hf_tokenizer_name=hub_name)
        with pytest.raises(DataError, match=named):
            open_clip.model_of(config)
    text.update(tokenizer_kwargs={"clean": "whitespace"}, hf_tokenizer_name="openai/clip")
    open_clip.model_of(config)
