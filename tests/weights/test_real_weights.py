"""Opt-in: the released ViT-B/32 itself, where you have it. Not run by clipjax's own CI.

CLIPJAX_VITB32 names its safetensors file or a folder that `clipjax.convert` made of `ViT-B-32.pt`,
CLIPJAX_CLIP_PNG the picture CLIP.png of the release's repository, CLIPJAX_EVAL_DATA a folder with
ImageNetV2 (matched frequency) as `clipjax.evaluate --data` takes it; its prompts come from an
installed clip-benchmark.
"""

import json
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


@pytest.mark.skipif(
    not all(name in os.environ for name in ("CLIPJAX_VITB32", "CLIPJAX_EVAL_DATA")),
    reason="needs ('CLIPJAX_VITB32', 'CLIPJAX_EVAL_DATA')",
)
def test_imagenet_v2_is_what_open_clip_publishes(tmp_path):
    """55.93 %, open_clip's openclip_results.csv; one image of the 10,000 is 0.01."""
    from clipjax import evaluate

    suite = tmp_path / "suite.py"
    suite.write_text(
        "from clipjax.evals import suites\n"
        "def get_suite():\n"
        '    return suites.Suite("real", (suites.get("imagenet_v2", run=("zero_shot",)),))\n'
    )
    weights, data = os.environ["CLIPJAX_VITB32"], os.environ["CLIPJAX_EVAL_DATA"]
    out = str(tmp_path / "out")
    assert evaluate.run("", weights=weights, suite=str(suite), data=data, output=out) == 0
    record = json.loads((tmp_path / "out" / "real" / "imagenet_v2.json").read_text())
    figure = record["measurements"]["zero_shot"]["figures"]["top1_accuracy"]
    assert figure["n"] == 10_000
    np.testing.assert_allclose(figure["value"], 0.5593, atol=2e-3)
