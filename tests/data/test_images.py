"""Decoding: evaluation against the released preprocessing, training against it too, bad files."""

import io
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from clipjax.data import images
from tests.data import fakes

SIZES = [(64, 64), (65, 64), (63, 90), (200, 97), (97, 200), (31, 40), (448, 336), (333, 500)]


def released(data, size):
    """openai/CLIP's `_transform` up to ToTensor, as torchvision computes it on Pillow images."""
    image = Image.open(io.BytesIO(data))
    width, height = image.size
    short, long = (width, height) if width <= height else (height, width)
    new_short, new_long = size, int(size * long / short)
    new = (new_short, new_long) if width <= height else (new_long, new_short)
    if new != image.size:
        image = image.resize(new, Image.Resampling.BICUBIC)
    left = int(round((image.width - size) / 2.0))  # noqa: RUF046 (torchvision's own line)
    top = int(round((image.height - size) / 2.0))  # noqa: RUF046
    return np.asarray(image.crop((left, top, left + size, top + size)).convert("RGB"))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_eval_is_bit_equal_to_the_release(size, file_format):
    data = fakes.encode(fakes.photo(3, width=size[0], height=size[1]), file_format)
    pixels = images.decode_eval(data, size=64)
    assert pixels.shape == (64, 64, 3) and pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, released(data, 64))


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # from the release's code
@pytest.mark.parametrize("size", SIZES)
def test_squash_resizes_both_sides_and_cuts_nothing_off(size):
    data = fakes.encode(fakes.photo(3, width=size[0], height=size[1]), "PNG")
    image = Image.open(io.BytesIO(data)).convert("RGB")
    expected = np.asarray(image.resize((48, 48), Image.Resampling.BICUBIC))
    rng = np.random.default_rng(0)
    for pixels in (
        images.decode_eval(data, size=48, resize="squash"),
        images.decode_train(data, size=48, rng=rng, resize="squash"),
    ):
        np.testing.assert_array_equal(pixels, expected)
    assert rng.random() == np.random.default_rng(0).random()  # nothing was drawn


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_eval_is_bit_equal_in_every_mode(mode):
    image = fakes.photo(3, width=90, height=70)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    data = fakes.encode(image.convert(mode), "JPEG" if mode == "CMYK" else "PNG")
    assert Image.open(io.BytesIO(data)).mode == mode
    np.testing.assert_array_equal(images.decode_eval(data, size=32), released(data, 32))
    pixels = images.decode_train(data, size=32, rng=np.random.default_rng(0))
    assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8


def test_palette_with_transparency_warns_nobody(recwarn):
    image = fakes.photo(3, width=50, height=40).quantize(16)
    data = fakes.encode(image, "PNG", transparency=b"\x00" * 8)
    images.decode_eval(data, size=32)
    images.decode_train(data, size=32, rng=np.random.default_rng(0))
    assert not recwarn.list


def test_16_bit_grey_is_scaled():
    levels = np.linspace(0, 65535, 48 * 48).astype(np.uint16).reshape(48, 48)
    data = fakes.encode(Image.fromarray(levels), "PNG")
    expected = np.repeat((levels >> 8).astype(np.uint8)[..., None], 3, axis=2)
    np.testing.assert_array_equal(images.decode_eval(data, size=48), expected)
    train = images.decode_train(data, size=48, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(train, expected)


@pytest.mark.parametrize("decode", ["train", "eval"])
def test_first_frame_of_an_animation(decode):
    frames = [fakes.photo(i, width=40, height=40) for i in range(3)]
    for file_format in ("PNG", "WEBP"):
        options = {"save_all": True, "append_images": frames[1:], "duration": 50}
        lossless = {"lossless": True} if file_format == "WEBP" else {}
        data = fakes.encode(frames[0], file_format, **options, **lossless)
        if decode == "eval":
            pixels = images.decode_eval(data, size=40)
        else:
            pixels = images.decode_train(data, size=40, rng=np.random.default_rng(0))
        np.testing.assert_array_equal(pixels, np.asarray(frames[0]))


def every_crop(data, size):
    """All squares of the image whose shorter side was resized to `size`, as the paper cuts them."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    short = min(image.size)
    new = tuple(int(size * side / short) for side in image.size)
    pixels = np.asarray(image.resize(new, Image.Resampling.BICUBIC))
    last = (new[1] - size + 1, new[0] - size + 1)
    return [pixels[y : y + size, x : x + size] for y in range(last[0]) for x in range(last[1])]


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (33, 90), (64, 64)])
def test_train_takes_a_random_square_of_the_resized_image(size):
    data = fakes.encode(fakes.photo(1, width=size[0], height=size[1]), "PNG")
    squares = every_crop(data, 32)
    rng = np.random.default_rng(0)
    found = set()
    for _ in range(20 * len(squares)):
        pixels = images.decode_train(data, size=32, rng=rng)
        error = [np.abs(pixels.astype(int) - square).max() for square in squares]
        assert min(error) <= 1  # resampled in one go: rounding only
        found.add(int(np.argmin(error)))
    assert found == set(range(len(squares)))  # every place, the last one included


def test_train_at_reduced_scale_stays_close():
    for size in [(500, 400), (1024, 768), (400, 1000)]:
        data = fakes.encode(fakes.photo(2, width=size[0], height=size[1]), quality=90)
        reduced = images.decode_train(data, size=64, rng=np.random.default_rng(4))
        exact = images.decode_train(
            fakes.encode(Image.open(io.BytesIO(data)), "PNG"), size=64, rng=np.random.default_rng(4)
        )
        difference = np.abs(reduced.astype(int) - exact)
        assert difference.max() <= 12 and difference.mean() < 1.5  # harsher than photographs
        assert difference.max() > 0  # a reduction did take place


def test_no_resampling_at_the_target_size():
    image = fakes.photo(2, width=48, height=48)
    data = fakes.encode(image, "PNG")
    np.testing.assert_array_equal(images.decode_eval(data, size=48), np.asarray(image))
    pixels = images.decode_train(data, size=48, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(pixels, np.asarray(image))


def png_header(width, height):
    """A PNG that claims a size and holds hardly any data."""

    def chunk(kind, body):
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\x00" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def jpeg_claiming(width, height):
    data = bytearray(fakes.encode(fakes.photo(0, width=16, height=16)))
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(data)


JPEG = fakes.encode(fakes.photo(0, width=64, height=48), quality=90)
PNG = fakes.encode(fakes.photo(0, width=64, height=48), "PNG")
WEBP = fakes.encode(fakes.photo(0, width=64, height=48), "WEBP")
BOMB_WEBP = fakes.encode(Image.new("L", (16383, 3060)), "WEBP", lossless=True)
BAD = {
    "empty": (b"", "not a JPEG"),
    "text": (b"<html>404</html>", "not a JPEG"),
    "gif": (fakes.encode(fakes.photo(0, width=20, height=20), "GIF"), "not a JPEG"),
    "bmp": (fakes.encode(fakes.photo(0, width=20, height=20), "BMP"), "not a JPEG"),
    "magic only": (b"\xff\xd8\xff", "not a JPEG|damaged"),
    "half a jpeg": (JPEG[: len(JPEG) // 2], "damaged"),
    "half a png": (PNG[: len(PNG) // 2], "damaged"),
    "half a webp": (WEBP[: len(WEBP) // 2], "damaged|not a JPEG"),
    "png without pixels": (png_header(64, 64), "damaged"),
    "png bomb": (png_header(60_000, 60_000), "too many pixels"),
    "png between warning and error": (png_header(10_000, 10_000), "too many pixels"),
    "jpeg bomb": (jpeg_claiming(65_000, 65_000), "too many pixels"),
    "webp bomb": (BOMB_WEBP, "too many pixels"),
    "1 x 1": (fakes.encode(Image.new("RGB", (1, 1)), "PNG"), "too small"),
    "1 x 90": (fakes.encode(Image.new("RGB", (1, 90))), "too small"),
    "2 x 1000": (fakes.encode(Image.new("RGB", (2, 1000)), "PNG"), "extreme aspect"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_images_have_one_short_reason(name):
    data, reason = BAD[name]
    for decode in (
        lambda: images.decode_eval(data, size=32),
        lambda: images.decode_train(data, size=32, rng=np.random.default_rng(0)),
    ):
        with pytest.raises(images.BadImage, match=reason) as caught:
            decode()
        assert isinstance(caught.value, ValueError)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 60


@pytest.mark.parametrize("name", ["png bomb", "jpeg bomb", "webp bomb"])
def test_bombs_are_refused_from_the_header(name):
    data, _ = BAD[name]
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(images.BadImage):
        images.decode_train(data, size=32, rng=np.random.default_rng(0))
    seconds = time.process_time() - began
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 0.5 and peak < 10_000_000


def test_harmless_jpeg_damage_is_read():
    """Bytes between the data and the end marker: libjpeg warns, every viewer shows the image."""
    data = JPEG[:-2] + b"\x00\x01\x02\x03" + JPEG[-2:]
    pixels = images.decode_train(data, size=48, rng=np.random.default_rng(1))
    clean = images.decode_train(JPEG, size=48, rng=np.random.default_rng(1))
    assert np.abs(pixels.astype(int) - clean).max() <= 1


def test_mutated_files_decode_or_are_bad():
    rng = np.random.default_rng(0)
    outcomes = {"decoded": 0, "bad": 0}
    for original in (JPEG, PNG, WEBP):
        for _ in range(150):
            data = bytearray(original)
            for place in rng.integers(0, len(data), 3):
                data[place] = rng.integers(256)
            try:
                pixels = images.decode_train(bytes(data), size=32, rng=rng)
            except images.BadImage:
                outcomes["bad"] += 1
            else:
                assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8
                outcomes["decoded"] += 1
    assert min(outcomes.values()) > 20, outcomes
