"""The model that weights belong to, where they do not say it: what `--model_config` names.

A state dict's shapes tell most sizes of a model, but not its activation, how wide its heads are,
LayerNorm's epsilon or how images are prepared. These come from a file, or from a name.
"""

import importlib.util
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from clipjax.common.exits import ConfigError
from clipjax.common.registry import closest
from clipjax.models import config as model_settings
from clipjax.models import zoo
from clipjax.weights import (
    files,
    huggingface,
    huggingface_siglip,
    open_clip,
    open_clip_siglip,
    preprocessing,
)
from clipjax.weights.foreign import LONGEST, checked
from clipjax.weights.settings import Settings

PREFIX = "open_clip:"  # before the name of a model that an installed open_clip has
HOW_ONLY = ("name", "scan", "dtype", "param_dtype", "remat")  # of a run: not what it computes
Described = tuple[dict[str, Any], tuple[str, ...]]  # a model as of `zoo.MODELS`; notes on it


def read(named: str) -> Described:
    """The model that a user named, and notes on what is left open there.

    Args:
      named: a JSON file: open_clip's settings of a model, with or without those of images, the
        config.json of a transformers' folder or of a clipjax run; or a name of the zoo; or
        "open_clip:NAME", a model of an installed open_clip.

    Raises:
      ConfigError: there is no such file or name.
      DataError: clipjax has no such model.
    """
    path = os.path.expanduser(named)
    if os.path.isfile(path):
        return _of_file(pathlib.Path(path))
    if named.startswith(PREFIX):
        return _of_file(_of_package(named.removeprefix(PREFIX)))
    if named in zoo.MODELS:
        return zoo.get(named), ()
    if os.path.isdir(path):
        raise ConfigError(f"model_config={named}: is a folder; name the JSON file in it")
    raise ConfigError(
        f"model_config={named[:LONGEST]}: is no file (looked from {os.getcwd()}), nor a name of the"
        f" zoo ({', '.join(zoo.MODELS)}); open_clip's models are {PREFIX}NAME, and may have another"
        " activation than OpenAI's of that name"
    )


def _of_file(path: pathlib.Path) -> Described:
    content = files.read_json(path)
    if "model_cfg" in content:
        return of_open_clip(content, file=path.name)
    if "vision_cfg" in content:
        return of_open_clip({"model_cfg": content}, file=path.name)
    if "model_type" in content:
        return of_transformers(path)
    if isinstance(content.get("model"), Mapping):
        return _of_run(content["model"], file=path.name), ()
    raise ConfigError(
        f"model_config={path}: holds neither open_clip's settings (model_cfg, or vision_cfg and"
        " text_cfg) nor transformers' (model_type) nor a clipjax run's (model)"
    )


def of_open_clip(content: Mapping[str, Any], *, file: str = open_clip.CONFIG) -> Described:
    """The model of an `open_clip_config.json`, CLIP or SigLIP; DataError if clipjax has none."""
    model = Settings(content, file=file).part("model_cfg")
    name = model.part("vision_cfg").given("timm_model_name", "")
    reader = open_clip_siglip if "_siglip_" in str(name) else open_clip
    return reader.model_of(content, file=file), open_clip.left_out(content)


def of_transformers(config: pathlib.Path) -> Described:
    """The model of a `config.json` and the files beside it; DataError if clipjax has none."""
    return reader_of(config).describe(config)


def reader_of(config: pathlib.Path) -> Any:
    """The module that reads such a model of transformers'; DataError if there is none."""
    readers = {"clip": huggingface, huggingface_siglip.MODEL_TYPE: huggingface_siglip}
    settings = Settings(files.read_json(config), file=config.name)
    if "model_type" not in settings.values and "architecture" in settings.values:
        raise settings.fail("architecture", "is timm's, an image tower alone; a CLIP has two")
    return readers[settings.one_of("model_type", readers, None)]


def _of_run(model: Mapping[str, Any], *, file: str) -> dict[str, Any]:
    """The model of a run's config; DataError if it is none that other programs have."""
    settings = Settings(model, file=file, where="model.")
    towers = {tower: dict(settings.part(tower).values) for tower in ("vision", "text")}
    settings.part("text").one_of("kind", ("transformer",), "transformer")
    whole = {key: value for key, value in model.items() if key not in HOW_ONLY} | {
        tower: {key: value for key, value in values.items() if key not in HOW_ONLY}
        for tower, values in towers.items()
    }
    return checked(whole)


def _of_package(name: str) -> pathlib.Path:
    """The settings of a model in the installed open_clip, which is not imported."""
    package = importlib.util.find_spec("open_clip")
    for folder in (package and package.submodule_search_locations) or ():
        known = pathlib.Path(folder) / "model_configs"
        if (known / f"{name}.json").is_file() and pathlib.PurePath(name).name == name:
            return known / f"{name}.json"
        hint = closest(name, [file.stem for file in known.glob("*.json")])
        raise ConfigError(f"model_config={PREFIX}{name}: the installed open_clip has none{hint}")
    raise ConfigError(f"model_config={PREFIX}{name}: pip install open_clip_torch, which has it")


def summary(model: Mapping[str, Any]) -> str:
    """What decides a model's numbers and no array tells, for people."""
    config = model_settings.parse(model)
    towers = vision, text = config.tower("vision"), config.tower("text")
    activations = dict.fromkeys(tower.activation for tower in towers if tower.kind != "resnet")
    epsilons = dict.fromkeys(getattr(tower, "layer_norm_epsilon", 0) for tower in towers)
    return (
        f"activation {' and '.join(activations)}, LayerNorm epsilon"
        f" {' and '.join(f'{one:g}' for one in epsilons if one)}, heads {vision.head_width} wide in"
        f" the image tower and {text.width // text.heads} in the text tower; images of"
        f" {vision.image_size} pixels, {preprocessing.described(model_settings.complete(model))}"
    )
