"""Faults beside the pixels do not cost an image, and what is no damage is not called damage."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from clipjax.data import image_metadata, images
from tests.data import fakes

PHOTO = fakes.photo(0, width=64, height=48)
JPEG = fakes.encode(PHOTO, quality=90)
PNG = fakes.encode(PHOTO, "PNG")
PALETTE = fakes.encode(PHOTO.convert("P"), "PNG", transparency=3)
BIG = zlib.compress(bytes(3 << 20))  # beyond what Pillow unpacks


def with_chunk(kind, body, *, data=PNG, wrong_sum=False):
    """A PNG with a chunk more, after its header."""
    checksum = zlib.crc32(kind + body) ^ wrong_sum
    chunk = struct.pack(">I4s", len(body), kind) + body + struct.pack(">I", checksum)
    return data[:33] + chunk + data[33:]


def with_segment(marker, body, *, data=JPEG):
    """A JPEG with a segment more, at its beginning."""
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + data[2:]


FAULTS = {
    "a long text": (PNG, with_chunk(b"zTXt", b"Comment\0\0" + BIG)),
    "a long international text": (PNG, with_chunk(b"iTXt", b"c\0\1\0\0\0" + BIG)),
    "a long profile": (PNG, with_chunk(b"iCCP", b"icc\0\0" + BIG)),
    "a profile of another method": (PNG, with_chunk(b"iCCP", b"icc\0\7" + BIG)),
    "a profile without end": (PALETTE, with_chunk(b"iCCP", b"icc", data=PALETTE)),
    "a text with a wrong checksum": (PNG, with_chunk(b"tEXt", b"a\0b", wrong_sum=True)),
    "a short size of pixels": (PNG, with_chunk(b"pHYs", b"ab")),
    "a short gamma": (PALETTE, with_chunk(b"gAMA", b"ab", data=PALETTE)),
    "animation without frames": (PNG, with_chunk(b"acTL", b"\0\0")),
    "broken EXIF in a PNG": (PNG, with_chunk(b"eXIf", b"xx")),
    "EXIF cut short": (JPEG, with_segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\xff\xff")),
    "a profile cut short": (JPEG, with_segment(0xE2, b"ICC_PROFILE\0")),
    "a profile of which parts lack": (JPEG, with_segment(0xE2, b"ICC_PROFILE\0\1\3abc")),
    "several pictures, broken": (JPEG, with_segment(0xE2, b"MPF\0garbagegarbage")),
    "a short JFIF segment": (JPEG, with_segment(0xE0, b"JFIF")),
    "a short Adobe segment": (JPEG, with_segment(0xEE, b"Adobe\0")),
    "a Photoshop segment": (JPEG, with_segment(0xED, b"Photoshop 3.0\x008BIM\3\xed\0\0\0\0\0\2ab")),
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Image appears to be a malformed MPO")
@pytest.mark.parametrize("name", FAULTS)
def test_pixels_are_those_of_the_sound_file(name):
    sound, faulty = FAULTS[name]
    rngs = [np.random.default_rng(0) for _ in range(2)]
    np.testing.assert_array_equal(*(images.decode_eval(data, size=32) for data in (sound, faulty)))
    np.testing.assert_array_equal(
        *(
            images.decode_train(data, size=32, rng=rng)
            for data, rng in zip((sound, faulty), rngs, strict=True)
        )
    )
    assert images.probe(faulty)[0] == (64, 48)


def test_colours_are_kept():
    """Of what is taken out, nothing says what the pixels mean."""
    cmyk = fakes.encode(PHOTO.convert("CMYK"), quality=90)
    faulty = with_segment(0xE0, b"JFIF", data=cmyk)
    assert image_metadata.without(faulty) != faulty
    np.testing.assert_array_equal(
        images.decode_eval(cmyk, size=48), images.decode_eval(faulty, size=48)
    )


def test_sound_files_hold_the_same_pixels_without_metadata():
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        data = fakes.encode(PHOTO.convert(mode), "PNG", pnginfo=None)
        bare = image_metadata.without(with_chunk(b"tEXt", b"a\0b", data=data))
        np.testing.assert_array_equal(
            images.decode_eval(bare, size=48), images.decode_eval(data, size=48)
        )


def jpeg_of(bits):
    data = bytearray(JPEG)
    data[data.index(b"\xff\xc0") + 4] = bits
    return bytes(data)


def test_what_is_no_damage_is_not_called_damage(monkeypatch):
    bomb = with_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(20 << 20)))
    big = PNG[:16] + struct.pack(">II", 9000, 9000) + PNG[24:]
    cases = {
        "too much metadata": bomb,
        "no decoder for this image (a JPEG of 12 bits)": jpeg_of(12),
        "too many pixels": big[:29] + struct.pack(">I", zlib.crc32(big[12:29])) + big[33:],
        "not a JPEG, PNG or WebP image (begins b'GIF8')": fakes.encode(PHOTO, "GIF"),
        "not a JPEG, PNG or WebP image (0 bytes)": b"",
        "damaged image": JPEG[:100],
    }
    for message, data in cases.items():
        for decode in (images.probe, lambda data: images.decode_eval(data, size=32)):
            with pytest.raises(images.BadImage) as caught:
                decode(data)
            assert caught.value.message == message
    with pytest.raises(images.BadImage, match=r"no decoder for this image \(decoder zip not avail"):
        monkeypatch.setattr(Image, "core", without_decoders(Image.core))
        images.decode_eval(PNG, size=32)


def without_decoders(core):
    """Pillow's library in a build without any."""

    class Core:
        def __getattr__(self, name):
            if name.endswith("_decoder"):
                raise AttributeError(name)
            return getattr(core, name)

    return Core()


def test_no_memory_is_no_damage(monkeypatch):
    def fail(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "load", fail)
    with pytest.raises(images.BadImage, match=r"^not enough memory$"):
        images.probe(PNG)


def test_metadata_of_mutated_files_is_taken_out_or_left():
    """Any bytes: never an error of its own, never more bytes than there were."""
    rng = np.random.default_rng(0)
    changed = 0
    for original in [faulty for _, faulty in FAULTS.values() if len(faulty) < 20_000]:
        for _ in range(100):
            data = bytearray(original)
            for place in rng.integers(0, min(len(data), 300), 3):
                data[place] = rng.integers(256)
            data = bytes(data[: rng.integers(len(data) + 1)] if rng.integers(2) else data)
            bare = image_metadata.without(data)
            assert len(bare) <= len(data)
            changed += bare != data
    assert changed > 300
