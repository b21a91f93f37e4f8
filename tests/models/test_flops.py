"""Model FLOPs against figures computed elsewhere."""

import pytest

from clipjax.models import flops, zoo


@pytest.mark.parametrize(
    ("name", "image", "text"),
    [  # giga multiply-adds, open_clip's docs/model_profile.csv (which counts two for each)
        ("SigLIP-B/16", 17.71, 5.51),
        ("ViT-bigG/14", 483.75, 48.93),
        # giga multiply-adds, LAION-AI/CLIP_benchmark's clip_table_2.csv
        ("ViT-B/32", 4.41, 2.98),
        ("ViT-B/16", 17.58, 2.98),
        ("ViT-L/14", 81.08, 6.7),
        ("ViT-L/14@336px", 191.1, 6.7),
    ],
)
def test_forward_flops(name, image, text):
    model = zoo.get(name)
    assert flops.image_flops(model) / 2e9 == pytest.approx(image, rel=0.02)
    assert flops.text_flops(model) / 2e9 == pytest.approx(text, rel=0.02)


@pytest.mark.parametrize(
    ("name", "image"),
    [("RN50", 6.11), ("RN101", 9.77), ("RN50x4", 21.28), ("RN50x16", 74.70), ("RN50x64", 264.6)],
)
def test_forward_flops_of_the_resnets(name, image):
    """The profile counts BatchNorm, ReLU and pooling too, a few per cent."""
    assert 0.94 * image < flops.image_flops(zoo.get(name)) / 2e9 < image


def test_a_frozen_tower_has_no_backward_pass():
    model = zoo.get("ViT-B/16")
    image, text = flops.image_flops(model), flops.text_flops(model)
    assert flops.training_flops_per_pair(model) == 3 * (image + text)
    assert flops.training_flops_per_pair(model, frozen=("vision",)) == image + 3 * text
