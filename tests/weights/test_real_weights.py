"""Opt-in: the released ViT-B/32 itself, where you have it. Not run by clipjax's own CI.

CLIPJAX_VITB32 names its safetensors file or a folder that `clipjax.convert` made of `ViT-B-32.pt`,
CLIPJAX_CLIP_PNG the picture CLIP.png of the release's repository.
"""

import os

import numpy as np
import pytest

NEEDED = ("CLIPJAX_VITB32", "CLIPJAX_CLIP_PNG")
LABELS = ["a diagram", "a dog", "a cat"]
RELEASED = [0.9927937, 0.00421068, 0.00299572]  # the release's README


@pytest.mark.skipif(not all(name in os.environ for name in NEEDED), reason=f"needs {NEEDED}")
def test_the_probabilities_of_the_release():
    import clipjax

    model = clipjax.load(os.environ["CLIPJAX_VITB32"])
    found = model.zero_shot([os.environ["CLIPJAX_CLIP_PNG"]], LABELS, templates=["{}"])
    np.testing.assert_allclose(found[0], RELEASED, atol=2e-3)  # its matrices were float16
