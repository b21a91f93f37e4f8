"""open_clip's folders: `open_clip_config.json`, `open_clip_model.safetensors`, tokenizer files."""

import pathlib
from collections.abc import Mapping
from typing import Any

from clipjax.common.exits import DataError
from clipjax.data import tokenizers
from clipjax.data.tokenizers import Tokenizer
from clipjax.data.tokenizers.clip import ClipTokenizer, packaged_merges
from clipjax.models import config as model_config
from clipjax.models.config import IMAGE_MEAN, IMAGE_STD
from clipjax.weights import arrays, files, openai, preprocessing, tokenizer_files
from clipjax.weights.settings import Settings, is_number, is_whole

CONFIG = "open_clip_config.json"
WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "model.safetensors",
)
MODEL_KEYS = (
    *("embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_bias"),
    # What decides how open_clip begins or computes, not what comes out.
    *("custom_text", "init_logit_scale", "nonscalar_logit_scale", "cast_dtype", "output_dict"),
)
# What a tower's settings may say; anything else must be absent, false, null or open_clip's default.
VISION_KEYS = (
    *("image_size", "patch_size", "width", "layers", "head_width", "mlp_ratio", "no_ln_pre"),
    *("act_kwargs", "norm_kwargs"),
)
TEXT_KEYS = (
    *("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "pool_type"),
    *("no_causal_mask", "proj_bias", "act_kwargs", "norm_kwargs", "tokenizer_kwargs"),
)
NO_MATTER = (
    *("patch_dropout", "pad_id", "eos_id", "hf_tokenizer_name", "output_tokens"),
    # What open_clip looks at only with settings that are refused.
    *("attn_pooler_queries", "attn_pooler_heads", "hf_model_pretrained", "hf_proj_type"),
    *("hf_pooler_type", "timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias"),
    *("timm_drop", "timm_drop_path"),
)
DEFAULTS = {"pool_type": "tok", "pos_embed_type": "learnable", "proj_type": "linear"}
POOLING = {"argmax": "end_of_text", "last": "last"}
RESIZE_MODES = {"shortest": "crop", "squash": "squash"}
INTERPOLATIONS = ("bicubic", "random")  # the second is of training; open_clip evaluates bicubic
PREPROCESSING = {
    "mean": IMAGE_MEAN,
    "std": IMAGE_STD,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def model_of(config: Mapping[str, Any], *, file: str = CONFIG) -> dict[str, Any]:
    """The model, as of `zoo.MODELS`, of an `open_clip_config.json`; DataError if there is none.

    What it leaves out is as open_clip's CLIPVisionCfg and CLIPTextCfg have it.
    """
    whole = Settings(config, file=file)
    model = whole.part("model_cfg")
    vision, text = model.part("vision_cfg"), model.part("text_cfg")
    check(model, known=MODEL_KEYS)
    check(vision, known=VISION_KEYS)
    activation, epsilon = activation_of(model, text), epsilon_of(text)
    image = _vision_of(vision)
    if image.get("kind") != "resnet":  # which has neither the one nor the other
        if activation_of(model, vision) != activation:
            raise DataError(f"{file}: the towers have different activations")
        if epsilon_of(vision) != epsilon:
            raise DataError(f"{file}: the towers have different norm_kwargs")
    return {
        "embed_dim": model.whole("embed_dim"),
        "activation": activation,
        "layer_norm_epsilon": epsilon,
        "logit_bias": _has_bias(model),
        **images_of(whole),
        "vision": image,
        "text": text_of(text),
    }


def _has_bias(model: Settings) -> bool:
    bias = model.given("init_logit_bias", None)
    if bias is not None and not is_number(bias):
        raise model.fail("init_logit_bias", "is no number")
    return bias is not None


def _vision_of(vision: Settings) -> dict[str, Any]:
    shared = {
        "image_size": vision.side("image_size", 224),
        "width": vision.whole("width", 768),
        "head_width": vision.whole("head_width", 64),
    }
    layers = vision.given("layers", 12)
    if isinstance(layers, list):
        if len(layers) != 4 or not all(is_whole(blocks) for blocks in layers):
            raise vision.fail("layers", "is no ResNet's: four stages have blocks")
        return {"kind": "resnet", "layers": tuple(layers), **shared}
    return {
        "patch_size": vision.side("patch_size", 16),
        "layers": vision.whole("layers", 12),
        "mlp_ratio": vision.number("mlp_ratio", 4.0),
        "ln_pre": not vision.switch("no_ln_pre", False),
        **shared,
    }


def text_of(text: Settings, *, cleaning: str = "lower") -> dict[str, Any]:
    """The text tower that a `text_cfg` describes; DataError if clipjax has none such.

    Args:
      text: the settings.
      cleaning: open_clip's name of what clipjax's tokenizer does to a text first. A tokenizer of
        transformers' does it itself, after "whitespace".
    """
    check(text, known=TEXT_KEYS)
    allowed = (cleaning, "whitespace") if text.given("hf_tokenizer_name", None) else (cleaning,)
    _options(text, "tokenizer_kwargs", known=("clean",)).one_of("clean", allowed, cleaning)
    return {
        "context_length": text.whole("context_length", 77),
        "vocab_size": text.whole("vocab_size", 49_408),
        "width": text.whole("width", 512),
        "heads": text.whole("heads", 8),
        "layers": text.whole("layers", 12),
        "mlp_ratio": text.number("mlp_ratio", 4.0),
        "causal": not text.switch("no_causal_mask", False),
        "pooling": POOLING[text.one_of("pool_type", POOLING, "argmax")],
        "projection_bias": text.switch("proj_bias", False),
    }


def activation_of(model: Settings, tower: Settings) -> str:
    """The activation of a tower; never told by the model's name."""
    options = _options(tower, "act_kwargs", known=("approximate",))
    form = options.one_of("approximate", ("none", "tanh"), "none")
    if not model.switch("quick_gelu", False):
        return "gelu_tanh" if form == "tanh" else "gelu"
    if options.values:
        raise tower.fail("act_kwargs", "is not supported beside quick_gelu")
    return "quick_gelu"


def epsilon_of(tower: Settings) -> float:
    """The LayerNorms' epsilon of a tower; PyTorch's default is 1e-5."""
    return _options(tower, "norm_kwargs", known=("eps",)).number("eps", 1e-5, most=1)


def _options(tower: Settings, key: str, *, known: tuple[str, ...]) -> Settings:
    """The object under a key, of `known` keys alone; null is an empty one."""
    if tower.given(key, None) is None:
        return Settings({}, tower.file, f"{tower.where}{key}.")
    options = tower.part(key)
    if set(options.values) - set(known):
        raise tower.fail(key, "is not supported")
    return options


def check(settings: Settings, *, known: tuple[str, ...]) -> None:
    """Raise DataError on a setting beside the `known` ones that says anything."""
    for key, value in settings.values.items():
        unset = value == DEFAULTS[key] if key in DEFAULTS else value is None or value is False
        if key not in (*known, *NO_MATTER) and not unset:
            raise settings.fail(key, "is not supported")


def left_out(config: Mapping[str, Any]) -> tuple[str, ...]:
    """A note on what a `preprocess_cfg` leaves open."""
    said = Settings(config, file=CONFIG).without_nulls().part("preprocess_cfg", {}).without_nulls()
    missing = [key for key in ("mean", "std", "resize_mode") if key not in said.values]
    if not missing:
        return ()
    images = preprocessing.described(images_of(Settings(config, file=CONFIG)))
    return (
        f"no preprocess_cfg says {', '.join(missing)}; with open_clip's defaults images are"
        f" prepared so: {images}",
    )


def images_of(config: Settings) -> dict[str, Any]:
    """Our model's settings of images, of a `preprocess_cfg`.

    What it leaves out, or says to be null, is as open_clip takes it then: for SigLIP no other. Its
    size open_clip replaces by the model's, its fill_color is seen with resize_mode "longest" only.

    Raises:
      DataError: we have no such preprocessing.
    """
    said = config.without_nulls()
    said = said.part("preprocess_cfg", {}).without_nulls()
    said.one_of("mode", ("RGB",), "RGB")
    said.one_of("interpolation", INTERPOLATIONS, PREPROCESSING["interpolation"])
    mode = said.one_of("resize_mode", RESIZE_MODES, PREPROCESSING["resize_mode"])
    return {
        "image_mean": said.three("mean", PREPROCESSING["mean"], least=0),
        "image_std": said.three("std", PREPROCESSING["std"], least=1e-3),
        "image_resize": RESIZE_MODES[mode],
    }


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
    tokenizers.publish(tokenizer_files.for_transformers(tokenizer), folder=folder)


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
    model = model_config.uniform(model)
    text = model["text"]
    config = {
        "embed_dim": model["embed_dim"],
        "vision_cfg": _vision_cfg(model) | shared_of(model),
        **rest_of(model, text, own_tokenizer=own_tokenizer),
    }
    return {"model_cfg": config, "preprocess_cfg": preprocessing_of(model)}


def _vision_cfg(model: Mapping[str, Any]) -> dict[str, Any]:
    vision = model["vision"]
    fields = {key: vision[key] for key in ("image_size", "width", "head_width")}
    if vision["kind"] == "resnet":
        if len(vision["layers"]) != 4:
            raise DataError("open_clip has ResNets of four stages only")
        return fields | {"layers": list(vision["layers"]), "patch_size": None}
    if (vision["class_token"], vision["pooling"], vision["patch_bias"]) != (True, "token", False):
        raise DataError("open_clip has no image tower like this one")
    fields |= {key: vision[key] for key in ("patch_size", "layers", "mlp_ratio")}
    return fields if vision["ln_pre"] else fields | {"no_ln_pre": True}


def rest_of(
    model: Mapping[str, Any], text: Mapping[str, Any], *, own_tokenizer: bool
) -> dict[str, Any]:
    """What a `model_cfg` says besides the image tower."""
    pooling = {ours: theirs for theirs, ours in POOLING.items()}
    fields: dict[str, Any] = {
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
        fields["quick_gelu"] = True
    if model.get("logit_bias"):
        fields["init_logit_bias"] = -10.0
    if own_tokenizer:
        fields["text_cfg"]["hf_tokenizer_name"] = "."  # open_clip takes the folder itself
    return fields


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
