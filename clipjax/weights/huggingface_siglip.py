"""transformers' SiglipModel: `config.json`, `model.safetensors`, preprocessor, tokenizer."""

import pathlib
from collections.abc import Mapping
from typing import Any

from clipjax.common.exits import DataError
from clipjax.data.tokenizers import Tokenizer
from clipjax.models import config as model_config
from clipjax.weights import (
    arrays,
    files,
    huggingface,
    huggingface_folder,
    open_clip_siglip,
    preprocessing,
    siglip,
)
from clipjax.weights.arrays import CONVOLUTION, ROW, ROWS, Array, Layout, linear, norm
from clipjax.weights.arrays import merged as joined
from clipjax.weights.huggingface import ACTIVATIONS
from clipjax.weights.huggingface_folder import CONFIG
from clipjax.weights.openai import packed
from clipjax.weights.settings import Settings

MODEL_TYPE = "siglip"


def describe(config: pathlib.Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The model of a folder that `SiglipModel.from_pretrained` loads; notes on what it leaves open.

    Args:
      config: its `config.json`; the others lie beside it.

    Raises:
      DataError: a file is missing or damaged, or asks for what clipjax does not have.
    """
    content = files.read_json(config)
    model, folder = model_of(content), config.parent
    images, notes = preprocessing.read(folder, family="Siglip", size=model["vision"]["image_size"])
    return model | images, (*huggingface.left_out(content), *notes)


def model_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The model, as of `zoo.MODELS`, of a SiglipModel's config; DataError as `describe`."""
    settings = Settings(config, file=CONFIG)
    vision, text = huggingface.tower(settings, "vision"), huggingface.tower(settings, "text")
    vision.one_of("vision_use_head", (True,), True)
    activation, epsilon = huggingface.shared_of(
        vision, text, activation="gelu_pytorch_tanh", epsilon=1e-6
    )
    image = huggingface.vision_of(vision, width=768, patch_size=16)
    words = huggingface.text_of(text, context_length=64, vocab_size=32_000, width=768, heads=12)
    width, projected = image.pop("width"), text.given("projection_size", None)
    if (words["width"] if projected is None else projected) != width:
        raise text.fail("projection_size", f"is not the image tower's hidden_size={width}")
    return siglip.model(
        width=width,
        heads=width // image.pop("head_width"),
        activation=activation,
        epsilon=epsilon,
        vision=image,
        text=words,
    )


def layout() -> Layout:
    """Where our parameters lie."""
    vision, text = "vision_model.embeddings", "text_model.embeddings"
    pool = "vision_model.head"
    return {
        "vision/patch_embedding/kernel": Array(f"{vision}.patch_embedding.weight", CONVOLUTION),
        "vision/patch_embedding/bias": Array(f"{vision}.patch_embedding.bias"),
        "vision/position_embedding": Array(f"{vision}.position_embedding.weight"),
        **huggingface.blocks("vision/blocks", "vision_model.encoder.layers.{i}"),
        **norm("vision/ln_post", "vision_model.post_layernorm"),
        "vision/pool/probe": Array(f"{pool}.probe", ROWS),
        **packed("vision/pool/attention", f"{pool}.attention.in_proj_"),
        **joined("vision/pool/attention/out", f"{pool}.attention.out_proj"),
        **norm("vision/pool/ln", f"{pool}.layernorm"),
        **linear("vision/pool/mlp/up", f"{pool}.mlp.fc1"),
        **linear("vision/pool/mlp/down", f"{pool}.mlp.fc2"),
        "text/token_embedding/embedding": Array(f"{text}.token_embedding.weight"),
        "text/position_embedding": Array(f"{text}.position_embedding.weight"),
        **huggingface.blocks("text/blocks", "text_model.encoder.layers.{i}"),
        **norm("text/ln_final", "text_model.final_layer_norm"),
        **linear("text/projection", "text_model.head"),
        "logit_scale": Array("logit_scale", ROW),
        "logit_bias": Array("logit_bias", ROW),
    }


def write(
    folder: pathlib.Path, *, model: Mapping[str, Any], params: Any, tokenizer: Tokenizer
) -> None:
    """Fill an empty folder with what `SiglipModel.from_pretrained` loads.

    Raises:
      DataError: SiglipModel has no such model.
    """
    siglip.check(model, where="transformers")
    model = model_config.uniform(model)
    if model["image_resize"] != "squash":
        raise DataError(
            "transformers' SigLIP resizes both sides of an image, this model crops"
            f" (model.image_resize); write --format={_other_format(model)}"
        )
    huggingface_folder.write(
        folder,
        config=config_of(model, tokenizer=tokenizer),
        preprocessor=preprocessor_of(model),
        tensors=arrays.Written(params, layout=layout()),
        tokenizer=tokenizer,
    )


def _other_format(model: Mapping[str, Any]) -> str:
    """A format that has this model: open_clip's where it has such towers."""
    try:
        open_clip_siglip.config_of(model)
    except DataError:
        return "clipjax"
    return "open_clip"


def config_of(model: Mapping[str, Any], *, tokenizer: Tokenizer) -> dict[str, Any]:
    """The `config.json` of our complete model."""
    vision, text = model["vision"], model["text"]
    names = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    shared = {
        "hidden_act": names[model["activation"]],
        "layer_norm_eps": model["layer_norm_epsilon"],
    }
    return {
        "architectures": ["SiglipModel"],
        "model_type": MODEL_TYPE,
        "vision_config": shared
        | {
            "model_type": "siglip_vision_model",
            **huggingface.vision_fields(vision),
        },
        "text_config": shared
        | {
            "model_type": "siglip_text_model",
            "projection_size": model["embed_dim"],
            **huggingface.text_fields(text),
            "eos_token_id": tokenizer.end_id,
            "pad_token_id": tokenizer.pad_id,
        },
    }


def preprocessor_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """The `preprocessor_config.json`: both sides resized, nothing cut off."""
    size = model["vision"]["image_size"]
    return {
        "image_processor_type": "SiglipImageProcessor",
        **huggingface.pixel_fields(model),
        "size": {"height": size, "width": size},
    }
