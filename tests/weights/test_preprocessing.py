"""How images are prepared, as transformers' files say it: old names and new, one or both."""

import json

import numpy as np
import pytest

from clipjax.build import pretrained
from clipjax.common.exits import DataError
from clipjax.models.config import IMAGE_MEAN, IMAGE_STD
from clipjax.weights import preprocessing
from clipjax.weights.preprocessing import PREPROCESSOR, PROCESSOR
from tests.weights import small

SIZE = 32
SQUARE = {"height": SIZE, "width": SIZE}
OTHER = {
    "image_processor_type": "CLIPImageProcessorFast",
    "size": SQUARE,
    "do_center_crop": False,
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [0.4, 0.5, 0.6],
}
CLIP = {"image_mean": IMAGE_MEAN, "image_std": IMAGE_STD, "image_resize": "crop"}


def read(folder, *, family="CLIP", new=None, old=None):
    if new is not None:
        (folder / PROCESSOR).write_text(json.dumps(new))
    if old is not None:
        (folder / PREPROCESSOR).write_text(json.dumps(old))
    return preprocessing.read(folder, family=family, size=SIZE)


def test_the_new_file_says_what_the_old_one_did(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    nested = {"image_processor": OTHER, "processor_class": "CLIPProcessor"}
    new, old = read(tmp_path / "a", new=nested), read(tmp_path / "b", old=OTHER)
    assert new == old
    expected = {"image_mean": (0.1, 0.2, 0.3), "image_std": (0.4, 0.5, 0.6)}
    assert new == ({**expected, "image_resize": "squash"}, ())


def test_a_processor_file_without_an_image_processor_leaves_it_to_the_other(tmp_path):
    """Which is what earlier versions wrote."""
    images, notes = read(tmp_path, new={"processor_class": "CLIPProcessor"}, old=OTHER)
    assert (images["image_mean"], notes) == ((0.1, 0.2, 0.3), ())


def test_two_files_that_say_two_things_are_refused_and_one_is_removed(tmp_path):
    changed = {**OTHER, "image_std": [0.4, 0.5, 0.7]}
    with pytest.raises(DataError, match=r"differently, image_std .*0\.6.*0\.7.*; remove the one"):
        read(tmp_path, new={"image_processor": OTHER}, old=changed)
    (tmp_path / PROCESSOR).unlink()
    assert read(tmp_path)[0]["image_std"] == (0.4, 0.5, 0.7)
    assert read(tmp_path, new={"image_processor": changed})[0]["image_std"] == (0.4, 0.5, 0.7)


@pytest.mark.parametrize(
    ("family", "resize", "mean"),
    [("CLIP", "crop", IMAGE_MEAN), ("Siglip", "squash", (0.5, 0.5, 0.5))],
)
def test_what_is_left_out_is_the_class_s_default_and_said(family, resize, mean, tmp_path):
    images, (note,) = read(tmp_path, family=family)
    assert (images["image_resize"], images["image_mean"]) == (resize, mean)
    assert "neither processor_config.json nor" in note and f"{mean[0]:.4g}" in note
    images, (note,) = read(tmp_path, family=family, old={"image_std": [0.4, 0.5, 0.6]})
    assert (images["image_resize"], images["image_mean"]) == (resize, mean)
    assert "leaves out image_mean, size;" in note and f"{mean[0]:.4g}" in note


def test_the_class_in_the_file_counts_more_than_the_model(tmp_path):
    images, _ = read(tmp_path, old={"image_processor_type": "SiglipImageProcessor"})
    assert (images["image_resize"], images["image_mean"]) == ("squash", (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("settings", "resize"),
    [
        ({"size": SIZE, "crop_size": SIZE}, "crop"),
        ({"size": {"shortest_edge": SIZE}, "crop_size": SQUARE}, "crop"),
        ({"size": {"shortest_edge": SIZE, "longest_edge": None}}, "crop"),
        ({"size": SIZE, "default_to_square": True}, "squash"),
        ({"size": [SIZE, SIZE]}, "squash"),
        ({"size": SQUARE, "do_center_crop": True, "crop_size": [SIZE, SIZE]}, "squash"),
        ({"size": SQUARE, "do_center_crop": False, "crop_size": 7}, "squash"),
    ],
)
def test_sizes_in_every_form(settings, resize, tmp_path):
    assert read(tmp_path, old=settings)[0]["image_resize"] == resize


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"size": {"shortest_edge": SIZE}, "do_center_crop": False}, "with do_center_crop=False"),
        ({"size": {"shortest_edge": SIZE, "longest_edge": SIZE}}, "with do_center_crop=True"),
        ({"size": {"shortest_edge": SIZE + 8}, "crop_size": SIZE}, "size=.* is not the model's 32"),
        ({"crop_size": {"height": SIZE, "width": 40}}, "crop_size=.* is not the model's 32"),
        ({"crop_size": {"shortest_edge": SIZE}}, "crop_size=.* is not supported"),
        ({"resample": 2}, "resample=2 is not supported"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor=.* is not supported"),
        ({"do_rescale": False}, "do_rescale=False is not supported"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order=True is not supported"),
        ({"image_processor_type": "ViTImageProcessor"}, "'ViTImageProcessor' is not supported"),
        ({"image_mean": [0.5, 0.5]}, "image_mean=.* give three numbers"),
        ({"image_std": [0.5, 0.0, 0.5]}, "image_std=.* give three numbers"),
        ({"image_std": [0.5, float("nan"), 0.5]}, "image_std=.* give three numbers"),
    ],
)
def test_what_clipjax_cannot_compute_is_refused_by_name(settings, named, tmp_path):
    for place in ({"old": settings}, {"new": {"image_processor": settings}}):
        with pytest.raises(DataError, match=named):
            read(tmp_path, **place)
        for file in tmp_path.iterdir():
            file.unlink()


def test_what_was_taken_for_want_of_a_file_goes_into_the_record(tmp_path):
    small.write(tmp_path / "a", small.model(), to="huggingface")
    assert "notes" not in pretrained.read(tmp_path / "a")[1]
    (tmp_path / "a" / PREPROCESSOR).unlink()
    (note,) = pretrained.read(tmp_path / "a")[1]["notes"]
    assert note.startswith("neither processor_config.json")


@pytest.mark.interop
@pytest.mark.parametrize("version", ["new", "old"])
@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_the_same_pixels_as_transformers(kind, version, tmp_path):
    """Saved as either version saves them, of pictures that are not square."""
    import transformers

    from clipjax.data import images as image_files
    from tests.weights import parity, peers

    settings = {"image_mean": [0.3, 0.4, 0.5], "image_std": [0.25, 0.5, 0.25], "size": SQUARE}
    if kind == "CLIP":
        settings |= {"size": {"shortest_edge": SIZE}, "crop_size": SQUARE}
    processor = getattr(transformers, f"{kind}ImageProcessorPil")(**settings)
    processor.save_pretrained(tmp_path)
    if version == "new":
        content = json.loads((tmp_path / PREPROCESSOR).read_text())
        (tmp_path / PREPROCESSOR).unlink()
        (tmp_path / PROCESSOR).write_text(json.dumps({"image_processor": content}))
    images, notes = preprocessing.read(tmp_path, family=kind, size=SIZE)
    assert not notes

    pictures = peers.images(SIZE)
    raw = [
        image_files.prepare_eval(picture, size=SIZE, resize=images["image_resize"])
        for picture in pictures
    ]
    ours = parity.normalised(np.stack(raw), mean=images["image_mean"], std=images["image_std"])
    theirs = processor(images=pictures, return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
