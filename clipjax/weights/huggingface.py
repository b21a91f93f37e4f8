"""transformers' CLIPModel: `config.json`, `model.safetensors`, preprocessor and tokenizer files."""

import pathlib
from collections.abc import Mapping
from typing import Any

from clipjax.common.exits import DataError
from clipjax.data.tokenizers import Tokenizer
from clipjax.models import shapes
from clipjax.weights import arrays, files, huggingface_folder, tokenizer_files
from clipjax.weights.arrays import CONVOLUTION, LINEAR, Array, Layout, linear, merged, norm
from clipjax.weights.foreign import Foreign
from clipjax.weights.huggingface_folder import CONFIG, PREPROCESSOR

ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}
BICUBIC = 3  # Pillow's number
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


def open(folder: pathlib.Path) -> Foreign:
    """A folder that `CLIPModel.from_pretrained` loads.

    Raises:
      DataError: a file is missing or damaged, or asks for what clipjax does not have.
    """
    model = model_of(files.read_json(folder / CONFIG))
    model |= preprocessing_of(folder, size=model["vision"]["image_size"], resize="crop")
    return Foreign(
        origin=f"transformers' {folder.name}",
        model=model,
        tensors=huggingface_folder.open_weights(folder),
        layout=layout(),
        ignored=IGNORED,
        find_tokenizer=lambda named: tokenizer_files.find(
            named, folder=folder, kind="clip", context_length=model["text"]["context_length"]
        ),
    )


def model_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The model, as of `zoo.MODELS`, that a CLIPModel's config describes; DataError as `open`."""
    try:
        # Old repositories keep the settings twice; transformers lets these win.
        vision = {**config["vision_config"], **(config.get("vision_config_dict") or {})}
        text = {**config["text_config"], **(config.get("text_config_dict") or {})}
        activation, epsilon = shared_of(vision, text)
        width, text_width = vision.get("hidden_size", 768), text.get("hidden_size", 512)
        vocab_size = text.get("vocab_size", 49_408)
        end = text.get("eos_token_id", vocab_size - 1)
        if end not in (ARGMAX, vocab_size - 1):
            raise DataError(
                f"{CONFIG}: eos_token_id={end} is not the largest of {vocab_size:,} ids, where"
                " clipjax looks for the end of a text"
            )
        return {
            "embed_dim": config.get("projection_dim", 512),
            "activation": activation,
            "layer_norm_epsilon": epsilon,
            "vision": {
                "image_size": vision.get("image_size", 224),
                "patch_size": vision.get("patch_size", 32),
                "width": width,
                "layers": vision.get("num_hidden_layers", 12),
                "head_width": width // vision.get("num_attention_heads", 12),
                "mlp_ratio": vision.get("intermediate_size", 3072) / width,
            },
            "text": {
                "context_length": text.get("max_position_embeddings", 77),
                "vocab_size": vocab_size,
                "width": text_width,
                "heads": text.get("num_attention_heads", 8),
                "layers": text.get("num_hidden_layers", 12),
                "mlp_ratio": text.get("intermediate_size", 2048) / text_width,
            },
        }
    except (KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise DataError(f"{CONFIG}: {error} is missing or misplaced") from None


def shared_of(vision: Mapping[str, Any], text: Mapping[str, Any]) -> tuple[str, float]:
    """(activation, epsilon), which clipjax has one of for both towers."""
    activations = [part.get("hidden_act", "quick_gelu") for part in (vision, text)]
    epsilons = [part.get("layer_norm_eps", 1e-5) for part in (vision, text)]
    for name, values in (("hidden_act", activations), ("layer_norm_eps", epsilons)):
        if values[0] != values[1]:
            raise DataError(f"{CONFIG}: {name} differs between the towers, {values}")
    if activations[0] not in ACTIVATIONS:
        raise DataError(f"{CONFIG}: hidden_act={activations[0]!r} is not supported")
    return ACTIVATIONS[activations[0]], epsilons[0]


def preprocessing_of(folder: pathlib.Path, *, size: int, resize: str) -> dict[str, Any]:
    """Our model's settings of images, as far as a `preprocessor_config.json` says them.

    Args:
      folder: may have none.
      size: pixels a side, of the model.
      resize: our `image_resize` where the file says nothing of it.

    Raises:
      DataError: images are not resized bicubically to the model's size.
    """
    file = folder / PREPROCESSOR
    settings = files.read_json(file) if file.is_file() else {}
    wanted = {"resample": BICUBIC, "do_resize": True, "do_normalize": True}
    for key, value in wanted.items():
        if settings.get(key, value) != value:
            raise DataError(f"{PREPROCESSOR}: {key}={settings[key]} is not supported")
    sides = settings.get("size")
    if isinstance(sides, dict):
        resize = "squash" if set(sides) == {"height", "width"} else "crop"
    if settings.get("do_center_crop") not in (None, resize == "crop"):
        raise DataError(
            f"{PREPROCESSOR}: size={sides} with do_center_crop={settings['do_center_crop']} is not"
            " supported"
        )
    for key in ("size", "crop_size"):
        side = settings.get(key) or size
        if (set(side.values()) if isinstance(side, dict) else {side}) != {size}:
            raise DataError(f"{PREPROCESSOR}: {key}={side} is not the model's {size} pixels")
    keys = ("image_mean", "image_std")
    pixels = {key: tuple(settings[key]) for key in keys if isinstance(settings.get(key), list)}
    return {**pixels, "image_resize": resize}


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
    """Of a stack of transformer blocks."""
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
    model = shapes.complete(model)
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
