"""Encoded image bytes → uint8 pixels, for training and for evaluation.

Training (`decode_train`) resizes the shorter side and takes a random square, as the paper does
(section 2.5), decoding large JPEGs at reduced scale. Evaluation (`decode_eval`) repeats the
released preprocessing (openai/CLIP `clip.py`: Resize, CenterCrop, RGB) bit for bit. SigLIP cuts
nothing off: "squash" resizes both sides. Both are called from `clipjax.data.examples` and
`clipjax.data.eval_batches`. EXIF rotation is ignored, as there.
"""

import io
import re

import numpy as np
import simplejpeg
from PIL import Image, features

from clipjax.common import git_lfs
from clipjax.data import image_metadata
from clipjax.data.source import BadRecord

FORMATS = ("JPEG", "PNG", "WEBP")
FILE_FORMATS = ("AVIF", "BMP", "GIF", "PPM", "TIFF")  # besides them, see `from_file`
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
MAX_PIXELS = 50_000_000  # 150 MB of RGB; larger ones are refused from the header alone
MAX_ASPECT = 100  # longer side over shorter side
MIN_SIDE = 2  # pixels; 1-pixel images are trackers and placeholders
JPEG_MARGIN = 2  # reduced-scale decoding keeps at least this many times the target's side


class BadImage(BadRecord):
    """An image cannot be used."""


def decode_train(
    data: bytes, *, size: int, rng: np.random.Generator, resize: str = "crop"
) -> np.ndarray:
    """Pixels for training: shorter side to `size`, then a random square.

    Large JPEGs are decoded at reduced scale, never below twice the target; photographs stay within
    a few levels of the full decode.

    Args:
      data: a JPEG, PNG (first frame) or WebP (first frame) file.
      size: side of the square, in pixels.
      rng: draws the square's place.
      resize: "squash" resizes both sides instead, and nothing is drawn.

    Returns:
      uint8 [size, size, 3].

    Raises:
      BadImage: the bytes are no such file, are damaged, or break one of the limits above.
    """
    image, width, height = _open_reduced(data, side=JPEG_MARGIN * size)
    if width == height == size:
        return np.asarray(image)
    if resize == "squash":
        return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
    new_width, new_height = _resized(width, height, size=size)
    left = int(rng.integers(new_width - size + 1))
    top = int(rng.integers(new_height - size + 1))
    # The square in the decoded image's coordinates, so that only what is kept gets resampled. A
    # reduced JPEG has n/8 of the file's pixels on each axis, rounded up.
    reduction = (8 * image.width // width) / 8
    scale_x, scale_y = reduction * width / new_width, reduction * height / new_height
    right = min((left + size) * scale_x, image.width)
    bottom = min((top + size) * scale_y, image.height)
    box = (left * scale_x, top * scale_y, right, bottom)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))


def decode_eval(data: bytes, *, size: int, resize: str = "crop") -> np.ndarray:
    """Pixels for evaluation, bit-equal to the released preprocessing before its ToTensor.

    Shorter side to `size` (Pillow bicubic, in the image's own mode), central square, RGB; with
    "squash" RGB, then both sides to `size`, as SigLIP's processor in transformers. Only 16-bit grey
    differs: it is scaled to 8 bits, where the release would clip it to white.

    Args and errors as for `decode_train`; returns uint8 [size, size, 3].
    """
    return prepare_eval(_open(data), size=size, resize=resize)


def prepare_eval(image: Image.Image, *, size: int, resize: str = "crop") -> np.ndarray:
    """Resize and crop a decoded image as `decode_eval` does: uint8 [size, size, 3]."""
    if resize == "squash":
        return np.asarray(_rgb(image).resize((size, size), Image.Resampling.BICUBIC))
    image = image if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK") else _rgb(image)
    if image.size != (size, size):
        image = image.resize(_resized(*image.size, size=size), Image.Resampling.BICUBIC)
        left = round((image.width - size) / 2.0)
        top = round((image.height - size) / 2.0)
        image = image.crop((left, top, left + size, top + size))
    return np.asarray(_rgb(image))


def probe(data: bytes) -> tuple[tuple[int, int], str]:
    """((width, height), "JPEG", "PNG" or "WEBP") of an image that decodes whole.

    Raises BadImage as `decode_train` does.
    """
    image = _open(data)
    return image.size, image.format or ""


def grey(data: bytes, *, side: int) -> np.ndarray:
    """The whole image squeezed to a grey square, float64 [side, side]; BadImage as `probe`."""
    image, _, _ = _open_reduced(data, side=JPEG_MARGIN * side)
    image = image.convert("L").resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.float64)


def thumbnail(data: bytes, *, side: int) -> np.ndarray:
    """The whole image for a sheet, uint8 [H, W, 3], at most `side` pixels; BadImage as `probe`."""
    image = _rgb(_open(data))
    image.thumbnail((side, side))
    return np.asarray(image)


def from_file(data: bytes) -> bytes:
    """An image file as one of `FORMATS`: of `FILE_FORMATS` the first frame becomes a PNG.

    Sources of single files call this. Shards hold what strangers put on the web, and need no more
    decoders than they have. Pixels stay as they are; what is no image at all is returned as it is.

    Raises BadImage where a file of `FILE_FORMATS` is damaged or breaks one of the limits.
    """
    Image.init()
    formats = tuple(name for name in FILE_FORMATS if name in Image.OPEN)  # a build may lack some
    try:
        Image.open(io.BytesIO(data), formats=formats)
    except Image.UnidentifiedImageError:  # of `FORMATS`, or no image
        return data
    except Exception:  # damaged or too large, which is told below
        pass
    image = _open(data, formats=formats)
    buffer = io.BytesIO()
    image = image if image.mode in PNG_MODES else _rgb(image)
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def shrink(data: bytes, *, side: int, quality: int) -> bytes:
    """The image as a JPEG whose shorter side is at most `side` pixels.

    A JPEG that is small enough stays as it is, byte by byte, once it has been decoded. Others are
    resized (Pillow bicubic) and encoded without chroma subsampling.

    Raises BadImage as `decode_train` does.
    """
    image = _open(data)
    small = min(image.size) <= side
    if small and image.format == "JPEG":
        return data
    image = _rgb(image)
    if not small:
        image = image.resize(_resized(*image.size, size=side), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def _resized(width: int, height: int, *, size: int) -> tuple[int, int]:
    """Width and height once the shorter side is `size`, rounded down as torchvision's Resize."""
    if width <= height:
        return size, int(size * height / width)
    return int(size * width / height), size


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BadImage("too many pixels")
    if min(width, height) < MIN_SIDE:
        raise BadImage("too small")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadImage("extreme aspect ratio")


def _open(data: bytes, *, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """The decoded first frame in its own mode; faults in what stands beside it do not matter."""
    try:
        return _decode(data, formats=formats)
    except BadImage as error:
        if error.reason not in ("damaged image", "not a JPEG, PNG or WebP image"):
            raise
        try:
            bare = image_metadata.without(data)
        except image_metadata.TooMuch:
            raise BadImage("too much metadata") from None
        if bare == data:
            raise
        return _decode(bare, formats=formats)


def _decode(data: bytes, *, formats: tuple[str, ...]) -> Image.Image:
    """The decoded first frame in its own mode, its size checked before any pixel is decoded."""
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
        _check_size(*image.size)
        if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
            raise BadImage("no decoder for this image", "values of 32 bits have no known range")
        image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage("too many pixels") from None
    except BadImage:
        raise
    except Image.UnidentifiedImageError:
        raise _unidentified(data) from None
    except MemoryError:
        raise BadImage("not enough memory") from None
    except Exception as error:  # Pillow's readers raise nearly anything on damaged bytes
        if re.fullmatch(r"(en|de)coder \w+ not available", str(error)):  # in this build of Pillow
            raise BadImage("no decoder for this image", str(error)) from None
        raise BadImage("damaged image") from error
    return image


def _unidentified(data: bytes) -> BadImage:
    """Why Pillow does not know an image."""
    is_webp = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    if is_webp and not features.check("webp"):
        return BadImage("no decoder for this image", "Pillow is built without WebP")
    if (bits := image_metadata.jpeg_bits(data)) not in (0, 8):
        return BadImage("no decoder for this image", f"a JPEG of {bits} bits")
    if is_webp or data.startswith((image_metadata.JPEG_MAGIC, image_metadata.PNG_MAGIC)):
        return BadImage("damaged image")
    begin = f"begins {data[:4]!r}" if data else "0 bytes"
    begin = git_lfs.FETCH if git_lfs.is_pointer(data) else begin
    return BadImage("not a JPEG, PNG or WebP image", begin)


def _open_reduced(data: bytes, *, side: int) -> tuple[Image.Image, int, int]:
    """An RGB image with sides of at least `side` where the file has them, and the file's size."""
    if data.startswith(image_metadata.JPEG_MAGIC):
        try:
            height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
            height, width = int(height), int(width)
            if colorspace in ("YCbCr", "RGB", "Gray"):
                _check_size(width, height)
                pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=side, min_width=side)
                return Image.fromarray(pixels), width, height
        except BadImage:
            raise
        except ValueError:
            pass  # strict about harmless warnings too: let Pillow, which is not, decide
    image = _rgb(_open(data))
    return image, *image.size


def _rgb(image: Image.Image) -> Image.Image:
    """RGB; transparency is dropped, as in the release."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion clips at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB Pillow warns
    return image.convert("RGB")
