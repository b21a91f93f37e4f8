"""Model FLOPs against figures computed elsewhere."""

import pytest

from clipjax.models import flops, zoo


@pytest.mark.parametrize(
    ("name", "image", "text"),
    [  # giga multiply-adds, LAION-AI/CLIP_benchmark's clip_table_2.csv
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
