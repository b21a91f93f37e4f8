"""open_clip's folders: `open_clip_config.json`, `open_clip_model.safetensors`, tokenizer files."""

import pathlib
from collections.abc import Mapping
from typing import Any

from clipjax.common.exits import DataError
from clipjax.data.clip_tokenizer import ClipTokenizer, packaged_merges
from clipjax.data.tokenizers import Tokenizer
from clipjax.models import shapes
from clipjax.models.shapes import IMAGE_MEAN, IMAGE_STD
from clipjax.weights import arrays, files, openai, tokenizer_files
from clipjax.weights.foreign import Foreign, only_file

CONFIG = "open_clip_config.json"
WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "model.safetensors",
)
# What a tower's settings may say; anything else must be absent, false or null.
VISION_KEYS = (
    *("image_size", "patch_size", "width", "layers", "head_width", "mlp_ratio", "no_ln_pre"),
    *("act_kwargs", "norm_kwargs"),
)
TEXT_KEYS = (
    *("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "pool_type"),
    *("no_causal_mask", "proj_bias", "act_kwargs", "norm_kwargs"),
)
NO_MATTER = ("patch_dropout", "pad_id", "tokenizer_kwargs", "hf_tokenizer_name", "output_tokens")
DEFAULTS = {"pool_type": ("tok",), "pos_embed_type": ("learnable",), "proj_type": ("linear",)}
POOLING = {"argmax": "end_of_text", "last": "last"}
RESIZE_MODES = {"shortest": "crop", "squash": "squash"}
PREPROCESSING = {
    "mean": IMAGE_MEAN,
    "std": IMAGE_STD,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def open(folder: pathlib.Path) -> Foreign:
    """A folder that open_clip calls `local-dir:`, or a downloaded repository.

    Raises:
      DataError: a file is missing or damaged, or asks for what clipjax does not have.
    """
    model = model_of(files.read_json(folder / CONFIG))
    return Foreign(
        origin=f"open_clip's {folder.name}",
        model=model,
        tensors=files.SafeTensors(only_file(folder, *WEIGHTS)),
        layout=openai.layout(model),
        ignored=openai.IGNORED,
        find_tokenizer=lambda named: tokenizer_files.find(
            named, folder=folder, kind="clip", context_length=model["text"]["context_length"]
        ),
    )


def model_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The model, as of `zoo.MODELS`, of an `open_clip_config.json`; DataError as `open`."""
    try:
        model = config["model_cfg"]
        vision, text = model["vision_cfg"], model["text_cfg"]
        _check(vision, known=VISION_KEYS, where="vision_cfg")
        exact = activation_of(model, vision)
        if exact != activation_of(model, text):
            raise DataError(f"{CONFIG}: the towers have different activations")
        return {
            "embed_dim": model["embed_dim"],
            "activation": exact,
            "layer_norm_epsilon": epsilon_of(text),
            "logit_bias": model.get("init_logit_bias") is not None,
            **images_of(config),
            "vision": _vision_of(vision),
            "text": text_of(text),
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{CONFIG}: {error} is missing or misplaced") from None


def _vision_of(vision: Mapping[str, Any]) -> dict[str, Any]:
    shared = {
        "image_size": square(vision["image_size"]),
        "width": vision["width"],
        "head_width": vision.get("head_width", 64),
    }
    if isinstance(vision["layers"], list):
        return {"kind": "resnet", "layers": tuple(vision["layers"]), **shared}
    return {
        "patch_size": square(vision["patch_size"]),
        "layers": vision["layers"],
        "mlp_ratio": vision.get("mlp_ratio", 4.0),
        "ln_pre": not vision.get("no_ln_pre", False),
        **shared,
    }


def text_of(text: Mapping[str, Any]) -> dict[str, Any]:
    """The text tower that a `text_cfg` describes; DataError if clipjax has none such."""
    _check(text, known=TEXT_KEYS, where="text_cfg")
    pooling = text.get("pool_type", "argmax")
    if pooling not in POOLING:
        raise DataError(f"{CONFIG}: text_cfg.pool_type={pooling!r} is not supported")
    return {
        "context_length": text.get("context_length", 77),
        "vocab_size": text.get("vocab_size", 49_408),
        "width": text["width"],
        "heads": text["heads"],
        "layers": text["layers"],
        "mlp_ratio": text.get("mlp_ratio", 4.0),
        "causal": not text.get("no_causal_mask", False),
        "pooling": POOLING[pooling],
        "projection_bias": bool(text.get("proj_bias", False)),
    }


def activation_of(model: Mapping[str, Any], tower: Mapping[str, Any]) -> str:
    """The activation of a tower; never told by the model's name."""
    if model.get("quick_gelu"):
        return "quick_gelu"
    options = tower.get("act_kwargs") or {}
    if options not in ({}, {"approximate": "none"}, {"approximate": "tanh"}):
        raise DataError(f"{CONFIG}: act_kwargs={options} is not supported")
    return "gelu_tanh" if options.get("approximate") == "tanh" else "gelu"


def epsilon_of(tower: Mapping[str, Any]) -> float:
    """Of a tower's LayerNorms."""
    options = tower.get("norm_kwargs") or {}
    if set(options) - {"eps"}:
        raise DataError(f"{CONFIG}: norm_kwargs={options} is not supported")
    return options.get("eps", 1e-5)


def _check(settings: Mapping[str, Any], *, known: tuple[str, ...], where: str) -> None:
    for key, value in settings.items():
        if key not in (*known, *NO_MATTER) and value and value not in DEFAULTS.get(key, ()):
            raise DataError(f"{CONFIG}: {where}.{key}={value!r} is not supported")


def images_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Our model's settings of images, of a `preprocess_cfg`.

    What it leaves out, or says to be null, is as open_clip takes it then: for SigLIP no other.

    Raises:
      DataError: we have no such preprocessing.
    """
    said = config.get("preprocess_cfg") or {}
    found = PREPROCESSING | {key: value for key, value in said.items() if value is not None}
    for key, known in (("interpolation", ("bicubic",)), ("resize_mode", tuple(RESIZE_MODES))):
        if found[key] not in known:
            raise DataError(f"{CONFIG}: preprocess_cfg.{key}={found[key]!r} is not supported")
    return {
        "image_mean": tuple(found["mean"]),
        "image_std": tuple(found["std"]),
        "image_resize": RESIZE_MODES[found["resize_mode"]],
    }


def square(size: Any) -> int:
    """The side of a square, given as one number or as two equal ones."""
    if isinstance(size, list) and len(size) == 2 and size[0] == size[1]:
        return size[0]
    if not isinstance(size, int):
        raise DataError(f"{CONFIG}: {size} is no side of a square")
    return size


def write(
    folder: pathlib.Path, *, model: Mapping[str, Any], params: Any, tokenizer: Tokenizer
) -> None:
    """Fill an empty folder with what `open_clip.create_model("local-dir:FOLDER")` loads.

    Raises:
      DataError: open_clip has no such model.
    """
    uses_own_files = not _is_released(tokenizer)
    files.write_json(folder / CONFIG, config_of(model, own_tokenizer=uses_own_files))
    tensors = arrays.Written(params, layout=openai.layout(model))
    files.write_safetensors(folder / WEIGHTS[0], tensors)
    for name, content in tokenizer_files.for_transformers(tokenizer).items():
        (folder / name).write_bytes(content)


def _is_released(tokenizer: Tokenizer) -> bool:
    """Whether it is the one that open_clip carries with it."""
    if not isinstance(tokenizer, ClipTokenizer) or tokenizer.vocab_size != 49_408:
        return False
    try:
        released = ClipTokenizer(packaged_merges(), context_length=tokenizer.context_length)
    except Exception:  # not installed here: its header line is not known, its merges are
        return True
    return released.merges == tokenizer.merges


def config_of(model: Mapping[str, Any], *, own_tokenizer: bool) -> dict[str, Any]:
    """The `open_clip_config.json` of our model; `own_tokenizer`: the folder holds another one.

    Raises:
      DataError: open_clip has no such model.
    """
    model = shapes.complete(model)
    text = model["text"]
    config = {
        "embed_dim": model["embed_dim"],
        "vision_cfg": _vision_cfg(model) | shared_of(model),
        **rest_of(model, text, own_tokenizer=own_tokenizer),
    }
    return {"model_cfg": config, "preprocess_cfg": preprocessing_of(model)}


def _vision_cfg(model: Mapping[str, Any]) -> dict[str, Any]:
    vision = model["vision"]
    found = {key: vision[key] for key in ("image_size", "width", "head_width")}
    if vision["kind"] == "resnet":
        if len(vision["layers"]) != 4:
            raise DataError("open_clip has ResNets of four stages only")
        return found | {"layers": list(vision["layers"]), "patch_size": None}
    if (vision["class_token"], vision["pooling"], vision["patch_bias"]) != (True, "token", False):
        raise DataError("open_clip has no image tower like this one")
    found |= {key: vision[key] for key in ("patch_size", "layers", "mlp_ratio")}
    return found if vision["ln_pre"] else found | {"no_ln_pre": True}


def rest_of(
    model: Mapping[str, Any], text: Mapping[str, Any], *, own_tokenizer: bool
) -> dict[str, Any]:
    """What a `model_cfg` says besides the image tower."""
    pooling = {ours: theirs for theirs, ours in POOLING.items()}
    found: dict[str, Any] = {
        "text_cfg": {
            **{key: text[key] for key in ("context_length", "vocab_size", "width", "heads")},
            **{key: text[key] for key in ("layers", "mlp_ratio")},
            "pool_type": pooling[text["pooling"]],
            "no_causal_mask": not text["causal"],
            "proj_bias": text["projection_bias"],
            **shared_of(model),
        }
    }
    if model["activation"] == "quick_gelu":
        found["quick_gelu"] = True
    if model.get("logit_bias"):
        found["init_logit_bias"] = -10.0
    if own_tokenizer:
        found["text_cfg"]["hf_tokenizer_name"] = "."  # open_clip takes the folder itself
    return found


def shared_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """What both towers say of activation and LayerNorm."""
    tanh = {"act_kwargs": {"approximate": "tanh"}} if model["activation"] == "gelu_tanh" else {}
    epsilon = model["layer_norm_epsilon"]
    return tanh | ({"norm_kwargs": {"eps": epsilon}} if epsilon != 1e-5 else {})


def preprocessing_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """The `preprocess_cfg` of our complete model."""
    modes = {ours: theirs for theirs, ours in RESIZE_MODES.items()}
    return {
        "mean": model["image_mean"],
        "std": model["image_std"],
        "interpolation": "bicubic",
        "resize_mode": modes[model["image_resize"]],
    }
