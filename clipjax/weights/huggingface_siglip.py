"""transformers' SiglipModel: `config.json`, `model.safetensors`, preprocessor, tokenizer."""

import pathlib
from collections.abc import Mapping
from typing import Any

from clipjax.common.exits import DataError
from clipjax.data.tokenizers import Tokenizer
from clipjax.models import shapes
from clipjax.weights import arrays, files, huggingface, huggingface_folder, siglip, tokenizer_files
from clipjax.weights.arrays import CONVOLUTION, ROW, ROWS, Array, Layout, linear, norm
from clipjax.weights.arrays import merged as joined
from clipjax.weights.foreign import Foreign
from clipjax.weights.huggingface import ACTIVATIONS
from clipjax.weights.huggingface_folder import CONFIG
from clipjax.weights.openai import packed

MODEL_TYPE = "siglip"


def open(folder: pathlib.Path) -> Foreign:
    """A folder that `SiglipModel.from_pretrained` loads.

    Raises:
      DataError: a file is missing or damaged, or asks for what clipjax does not have.
    """
    model = model_of(files.read_json(folder / CONFIG))
    size = model["vision"]["image_size"]
    model |= huggingface.preprocessing_of(folder, size=size, resize="squash")
    return Foreign(
        origin=f"transformers' {folder.name}",
        model=model,
        tensors=huggingface_folder.open_weights(folder),
        layout=layout(),
        ignored=huggingface.IGNORED,
        find_tokenizer=lambda named: tokenizer_files.find(
            named, folder=folder, kind="siglip", context_length=model["text"]["context_length"]
        ),
    )


def model_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The model, as of `zoo.MODELS`, that a SiglipModel's config describes; DataError as `open`."""
    try:
        vision, text = dict(config["vision_config"]), dict(config["text_config"])
        for part in (vision, text):
            part.setdefault("hidden_act", "gelu_pytorch_tanh")
            part.setdefault("layer_norm_eps", 1e-6)
        if not vision.get("vision_use_head", True):
            raise DataError(f"{CONFIG}: vision_use_head=False is not supported")
        activation, epsilon = huggingface.shared_of(vision, text)
        width, text_width = vision.get("hidden_size", 768), text.get("hidden_size", 768)
        if text.get("projection_size", text_width) != width:
            raise DataError(f"{CONFIG}: text_config.projection_size is not the image's {width}")
        return siglip.model(
            width=width,
            heads=vision.get("num_attention_heads", 12),
            activation=activation,
            epsilon=epsilon,
            vision={
                "image_size": vision.get("image_size", 224),
                "patch_size": vision.get("patch_size", 16),
                "layers": vision.get("num_hidden_layers", 12),
                "mlp_ratio": vision.get("intermediate_size", 3072) / width,
            },
            text={
                "context_length": text.get("max_position_embeddings", 64),
                "vocab_size": text.get("vocab_size", 32_000),
                "width": text_width,
                "heads": text.get("num_attention_heads", 12),
                "layers": text.get("num_hidden_layers", 12),
                "mlp_ratio": text.get("intermediate_size", 3072) / text_width,
            },
        )
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise DataError(f"{CONFIG}: {error} is missing or misplaced") from None


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
    model = shapes.complete(model)
    if model["image_resize"] != "squash":
        raise DataError(
            "transformers' SigLIP resizes both sides of an image, this model crops"
            " (model.image_resize); take --format=open_clip"
        )
    huggingface_folder.write(
        folder,
        config=config_of(model, tokenizer=tokenizer),
        preprocessor=preprocessor_of(model),
        tensors=arrays.Written(params, layout=layout()),
        tokenizer=tokenizer,
    )


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
