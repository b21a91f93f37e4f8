"""What an `open_clip_config.json` says: taken as open_clip takes it, or refused by name."""

import json

import pytest
import small

from clipjax import pretrained
from clipjax.common.exits import DataError
from clipjax.models.shapes import IMAGE_MEAN, IMAGE_STD
from clipjax.weights import open_clip, open_clip_siglip, siglip


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
