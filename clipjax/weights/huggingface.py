"""transformers' CLIPModel: `config.json`, `model.safetensors`, preprocessor and tokenizer files."""

import pathlib
from collections.abc import Mapping
from typing import Any

from clipjax.common.exits import DataError
from clipjax.data.tokenizers import Tokenizer
from clipjax.models import config as model_config
from clipjax.weights import arrays, files, huggingface_folder, preprocessing
from clipjax.weights.arrays import CONVOLUTION, LINEAR, Array, Layout, linear, merged, norm
from clipjax.weights.huggingface_folder import CONFIG
from clipjax.weights.preprocessing import BICUBIC
from clipjax.weights.settings import Settings

ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}
IGNORED = (r"(vision|text)_model\.embeddings\.position_ids",)
CLIP_MODEL = {  # what a model must be to have a form there
    "logit_bias": False,
    "vision.kind": "vit",
    "vision.class_token": True,
    "vision.pooling": "token",
    "vision.ln_pre": True,
    "vision.patch_bias": False,
    "vision.projection": True,
    "text.causal": True,
    "text.pooling": "end_of_text",
    "text.projection_bias": False,
}
ARGMAX = 2  # an end-of-text id that makes transformers pool at the largest id


def describe(config: pathlib.Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The model of a folder that `CLIPModel.from_pretrained` loads; notes on what it leaves open.

    Args:
      config: its `config.json`; the others lie beside it.

    Raises:
      DataError: a file is missing or damaged, or asks for what clipjax does not have.
    """
    content = files.read_json(config)
    model, folder = model_of(content), config.parent
    images, notes = preprocessing.read(folder, family="CLIP", size=model["vision"]["image_size"])
    return model | images, (*left_out(content), *notes)


def model_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The model, as of `zoo.MODELS`, that a CLIPModel's config describes; DataError as `describe`.

    What it leaves out is as transformers' CLIPConfig has it.
    """
    settings = Settings(config, file=CONFIG)
    vision, text = tower(settings, "vision"), tower(settings, "text")
    activation, epsilon = shared_of(vision, text, activation="quick_gelu", epsilon=1e-5)
    vocab_size = text.whole("vocab_size", 49_408)
    if text.whole("eos_token_id", 49_407) not in (ARGMAX, vocab_size - 1):
        raise DataError(
            f"{CONFIG}: eos_token_id={text.given('eos_token_id', 49_407)} is not the largest of"
            f" {vocab_size:,} ids, where clipjax looks for the end of a text"
        )
    return {
        "embed_dim": settings.whole("projection_dim", 512),
        "activation": activation,
        "layer_norm_epsilon": epsilon,
        "vision": vision_of(vision, width=768, patch_size=32),
        "text": text_of(text, context_length=77, vocab_size=49_408, width=512, heads=8),
    }


def left_out(config: Mapping[str, Any]) -> tuple[str, ...]:
    """A note on what a config leaves out that decides numbers and no shape tells."""
    towers = [tower(Settings(config, file=CONFIG), name) for name in ("vision", "text")]
    keys = ("hidden_act", "layer_norm_eps", "num_attention_heads")
    missing = [f"{part.where}{key}" for part in towers for key in keys if key not in part.values]
    return (f"{CONFIG} leaves out {', '.join(missing)}; taken is transformers' default",) * bool(
        missing
    )


def tower(config: Settings, name: str) -> Settings:
    """The settings of a tower. Old repositories may have them twice; transformers lets the
    `_config_dict` win, which it completes with defaults."""
    for key in (f"{name}_config_dict", f"{name}_config"):
        if config.given(key, None) is not None:
            return config.part(key)
    return Settings({}, config.file, f"{name}_config.")


def vision_of(vision: Settings, *, width: int, patch_size: int) -> dict[str, Any]:
    """The image tower's shape; `width` and `patch_size` are transformers' defaults."""
    width, heads = vision.whole("hidden_size", width), vision.whole("num_attention_heads", 12)
    if width % heads:
        raise vision.fail("num_attention_heads", f"does not divide hidden_size={width}")
    return {
        "image_size": vision.side("image_size", 224),
        "patch_size": vision.side("patch_size", patch_size),
        "width": width,
        "layers": vision.whole("num_hidden_layers", 12),
        "head_width": width // heads,
        "mlp_ratio": vision.whole("intermediate_size", 3072) / width,
    }


def text_of(
    text: Settings, *, context_length: int, vocab_size: int, width: int, heads: int
) -> dict[str, Any]:
    """The text tower's shape; the other arguments are transformers' defaults."""
    inner = text.whole("intermediate_size", 4 * width)
    width = text.whole("hidden_size", width)
    return {
        "context_length": text.whole("max_position_embeddings", context_length),
        "vocab_size": text.whole("vocab_size", vocab_size),
        "width": width,
        "heads": text.whole("num_attention_heads", heads),
        "layers": text.whole("num_hidden_layers", 12),
        "mlp_ratio": inner / width,
    }


def shared_of(
    vision: Settings, text: Settings, *, activation: str, epsilon: float
) -> tuple[str, float]:
    """(activation, epsilon), which clipjax has one of for both towers; the arguments are
    transformers' defaults."""
    towers = (vision, text)
    activations = [part.one_of("hidden_act", ACTIVATIONS, activation) for part in towers]
    epsilons = [part.number("layer_norm_eps", epsilon, most=1) for part in towers]
    for name, values in (("hidden_act", activations), ("layer_norm_eps", epsilons)):
        if values[0] != values[1]:
            raise DataError(f"{CONFIG}: {name} differs between the towers, {values}")
    return ACTIVATIONS[activations[0]], epsilons[0]


def layout() -> Layout:
    """Where our parameters lie."""
    vision, text = "vision_model.embeddings", "text_model.embeddings"
    return {
        "vision/class_embedding": Array(f"{vision}.class_embedding"),
        "vision/patch_embedding/kernel": Array(f"{vision}.patch_embedding.weight", CONVOLUTION),
        "vision/position_embedding": Array(f"{vision}.position_embedding.weight"),
        **norm("vision/ln_pre", "vision_model.pre_layrnorm"),  # spelt so
        **blocks("vision/blocks", "vision_model.encoder.layers.{i}"),
        **norm("vision/ln_post", "vision_model.post_layernorm"),
        "vision/projection/kernel": Array("visual_projection.weight", LINEAR),
        "text/token_embedding/embedding": Array(f"{text}.token_embedding.weight"),
        "text/position_embedding": Array(f"{text}.position_embedding.weight"),
        **blocks("text/blocks", "text_model.encoder.layers.{i}"),
        **norm("text/ln_final", "text_model.final_layer_norm"),
        "text/projection/kernel": Array("text_projection.weight", LINEAR),
        "logit_scale": Array("logit_scale"),
    }


def blocks(ours: str, theirs: str) -> Layout:
    """Layout of a stack of transformer blocks."""
    return {
        **norm(f"{ours}/ln_1", f"{theirs}.layer_norm1"),
        **norm(f"{ours}/ln_2", f"{theirs}.layer_norm2"),
        **linear(f"{ours}/attention/query", f"{theirs}.self_attn.q_proj"),
        **linear(f"{ours}/attention/key", f"{theirs}.self_attn.k_proj"),
        **linear(f"{ours}/attention/value", f"{theirs}.self_attn.v_proj"),
        **merged(f"{ours}/attention/out", f"{theirs}.self_attn.out_proj"),
        **linear(f"{ours}/mlp/up", f"{theirs}.mlp.fc1"),
        **linear(f"{ours}/mlp/down", f"{theirs}.mlp.fc2"),
    }


def write(
    folder: pathlib.Path, *, model: Mapping[str, Any], params: Any, tokenizer: Tokenizer
) -> None:
    """Fill an empty folder with what `CLIPModel.from_pretrained` loads.

    Raises:
      DataError: CLIPModel has no such model.
    """
    model = model_config.uniform(model)
    huggingface_folder.write(
        folder,
        config=config_of(model, tokenizer=tokenizer),
        preprocessor=preprocessor_of(model),
        tensors=arrays.Written(params, layout=layout()),
        tokenizer=tokenizer,
    )


def config_of(model: Mapping[str, Any], *, tokenizer: Tokenizer) -> dict[str, Any]:
    """The `config.json` of our complete model; DataError if CLIPModel has no such."""
    vision, text = model["vision"], model["text"]
    for key, value in CLIP_MODEL.items():
        tower, _, field = key.rpartition(".")
        if (model[tower] if tower else model).get(field, value) != value:
            raise DataError(f"transformers' CLIPModel has no model with {key} other than {value}")
    names = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    shared = {
        "hidden_act": names[model["activation"]],
        "layer_norm_eps": model["layer_norm_epsilon"],
        "projection_dim": model["embed_dim"],
    }
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": model["embed_dim"],
        "vision_config": shared
        | {
            "model_type": "clip_vision_model",
            **vision_fields(vision),
        },
        "text_config": shared
        | {
            "model_type": "clip_text_model",
            **text_fields(text),
            # transformers pools at the first of these ids, we at the largest: the same place
            "eos_token_id": tokenizer.end_id,
            "bos_token_id": tokenizer.start_id,
            "pad_token_id": tokenizer.pad_id,
        },
    }


def preprocessor_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """The `preprocessor_config.json` of our complete model."""
    size = model["vision"]["image_size"]
    square, crop = {"height": size, "width": size}, model["image_resize"] == "crop"
    return {
        "image_processor_type": "CLIPImageProcessor",
        **pixel_fields(model),
        "size": {"shortest_edge": size} if crop else square,
        "do_center_crop": crop,
        "crop_size": square,
    }


def vision_fields(vision: Mapping[str, Any]) -> dict[str, Any]:
    """What CLIPModel's and SiglipModel's `vision_config` both call the image tower's shape."""
    return {
        "hidden_size": vision["width"],
        "intermediate_size": round(vision["width"] * vision["mlp_ratio"]),
        "num_hidden_layers": vision["layers"],
        "num_attention_heads": vision["width"] // vision["head_width"],
        "image_size": vision["image_size"],
        "patch_size": vision["patch_size"],
    }


def text_fields(text: Mapping[str, Any]) -> dict[str, Any]:
    """The same of `text_config` and the text tower."""
    return {
        "vocab_size": text["vocab_size"],
        "hidden_size": text["width"],
        "intermediate_size": round(text["width"] * text["mlp_ratio"]),
        "num_hidden_layers": text["layers"],
        "num_attention_heads": text["heads"],
        "max_position_embeddings": text["context_length"],
    }


def pixel_fields(model: Mapping[str, Any]) -> dict[str, Any]:
    """What both preprocessors do to pixels, whatever they cut."""
    return {
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": BICUBIC,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": model["image_mean"],
        "image_std": model["image_std"],
    }
