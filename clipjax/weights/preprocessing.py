"""How transformers prepares images: `processor_config.json`, `preprocessor_config.json`.

transformers 5 keeps the image processor in the first, under "image_processor"; earlier versions
have the second. What a file leaves out, or says to be null, is as the image processor's class has
it. What clipjax cannot compute is refused, never ignored.
"""

import pathlib
import re
from typing import Any

from clipjax.common.exits import DataError
from clipjax.models.config import IMAGE_MEAN, IMAGE_STD
from clipjax.weights import files
from clipjax.weights.settings import Settings

PROCESSOR, PREPROCESSOR = "processor_config.json", "preprocessor_config.json"
NESTED = "image_processor"  # its key in the first
CLASS = re.compile(r"(CLIP|Siglip)(ImageProcessor|FeatureExtractor)(Fast|Pil)?")
CLASS_KEYS = ("image_processor_type", "feature_extractor_type")
HALVES = (0.5, 0.5, 0.5)
# What the classes do where a file leaves it out.
DEFAULTS: dict[str, dict[str, Any]] = {
    "CLIP": {
        "image_mean": IMAGE_MEAN,
        "image_std": IMAGE_STD,
        "image_resize": "crop",
    },
    "Siglip": {"image_mean": HALVES, "image_std": HALVES, "image_resize": "squash"},
}
BICUBIC = 3  # Pillow's number
STEPS = ("do_resize", "do_rescale", "do_normalize")  # which clipjax always takes
KNOWN_STEPS = (*STEPS, "do_center_crop", "do_convert_rgb")  # all images are made RGB


def read(folder: pathlib.Path, *, family: str, size: int) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Our model's settings of images, and notes on what the folder leaves open.

    Args:
      folder: of transformers'.
      family: of `DEFAULTS`, the image processor that such a model has.
      size: pixels a side, of the model.

    Raises:
      DataError: a file is damaged, clipjax prepares no images so, or two files say two things.
    """
    prepared = {
        settings.file: _prepared(settings, family=family, size=size)
        for settings in _image_processors(folder)
    }
    if not prepared:
        default = DEFAULTS[family]
        return default, (
            f"neither {PROCESSOR} nor {PREPROCESSOR} says how images are prepared; taken is"
            f" {family}ImageProcessor's default ({described(default)})",
        )
    (settings, notes), *others = prepared.values()
    for other, _ in others:
        if different := [key for key in settings if settings[key] != other[key]]:
            first, second = prepared
            raise DataError(
                f"{first} and {second} prepare images differently, {different[0]}"
                f" {settings[different[0]]} and {other[different[0]]}; remove the one that the"
                " model was not trained with"
            )
    return settings, notes


def described(images: dict[str, Any]) -> str:
    """Settings of images for people: "crop, mean (0.5, …), deviation (0.5, …)"."""
    mean, std = (
        ", ".join(f"{one:.4g}" for one in images[key]) for key in ("image_mean", "image_std")
    )
    return f"{images['image_resize']}, mean ({mean}), deviation ({std})"


def _image_processors(folder: pathlib.Path) -> list[Settings]:
    """The image processors that a folder describes, transformers 5's first."""
    processors = []
    if (folder / PROCESSOR).is_file():
        whole = Settings(files.read_json(folder / PROCESSOR), file=PROCESSOR).without_nulls()
        if NESTED in whole.values:
            processors.append(whole.part(NESTED))
    if (folder / PREPROCESSOR).is_file():
        processors.append(Settings(files.read_json(folder / PREPROCESSOR), file=PREPROCESSOR))
    return processors


def _prepared(
    settings: Settings, *, family: str, size: int
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What `read` gives, of one image processor."""
    settings = settings.without_nulls()
    default = DEFAULTS[_family(settings) or family]
    for key in STEPS:
        settings.one_of(key, (True,), True)
    settings.one_of("resample", (BICUBIC,), BICUBIC)
    for key in settings.values:
        if key.startswith("do_") and key not in KNOWN_STEPS and settings.values[key] is not False:
            raise settings.fail(key, "is not supported")
    if abs(settings.number("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise settings.fail("rescale_factor", "is not supported; clipjax has 1 / 255")
    images = {
        "image_mean": settings.three("image_mean", default["image_mean"], least=0),
        "image_std": settings.three("image_std", default["image_std"], least=1e-3),
        "image_resize": _resize(settings, size=size, default=default["image_resize"]),
    }
    missing = [key for key in ("image_mean", "image_std", "size") if key not in settings.values]
    if not missing:
        return images, ()
    return images, (
        f"{settings.file} leaves out {', '.join(missing)}; with its class's defaults images are"
        f" prepared so: {described(images)}",
    )


def _family(settings: Settings) -> str:
    """The image processor's family by its class's name; "" where the file names none."""
    for key in CLASS_KEYS:
        if key in settings.values:
            name = CLASS.fullmatch(str(settings.values[key]))
            if name is None:
                raise settings.fail(key, "is not supported; clipjax has CLIP's and Siglip's")
            return name[1]
    return ""


def _resize(settings: Settings, *, size: int, default: str) -> str:
    """Our `image_resize`: both sides to `size`, or the shorter one and then a centre crop."""
    sides = _sides(settings, "size", square=settings.switch("default_to_square", False))
    if sides is None:
        sides = {"shortest_edge": size} if default == "crop" else {"height": size, "width": size}
    crops = settings.switch("do_center_crop", default == "crop")
    cut = _sides(settings, "crop_size", square=True) if crops else None
    for key, asked in (("size", sides), ("crop_size", cut)):
        if asked and any(type(side) is not int or side != size for side in asked.values()):
            raise settings.fail(key, f"is not the model's {size} pixels")
    if cut is not None and set(cut) != {"height", "width"}:
        raise settings.fail("crop_size", "is not supported")
    if set(sides) == {"height", "width"}:
        return "squash"  # after which a crop to the same size leaves all
    if set(sides) != {"shortest_edge"} or not crops:
        raise settings.fail("size", f"with do_center_crop={crops} is not supported")
    return "crop"


def _sides(settings: Settings, key: str, *, square: bool) -> dict[str, Any] | None:
    """A size as transformers' dict of it; None where the file has none.

    Args:
      settings: of the image processor.
      key: of the size.
      square: whether one number means both sides, else it is the shorter one.
    """
    value = settings.given(key, None)
    if value is None:
        return None
    if type(value) is int:
        return {"height": value, "width": value} if square else {"shortest_edge": value}
    if isinstance(value, list) and len(value) == 2:
        return dict(zip(("height", "width"), value, strict=True))
    if not isinstance(value, dict):
        raise settings.fail(key, "is not supported")
    return {name: number for name, number in value.items() if number is not None}
