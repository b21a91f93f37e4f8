"""open_clip's SigLIP folders: an image tower of timm's, open_clip's own text tower."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

from clipjax.common.exits import DataError
from clipjax.data import tokenizers
from clipjax.data.tokenizers import Tokenizer
from clipjax.data.tokenizers.siglip import SiglipTokenizer
from clipjax.models import config as model_config
from clipjax.weights import arrays, files, open_clip, openai, siglip, tokenizer_files
from clipjax.weights.arrays import CONVOLUTION, ROW, ROWS, Array, Layout, linear, norm
from clipjax.weights.arrays import merged as joined
from clipjax.weights.open_clip import CONFIG, WEIGHTS
from clipjax.weights.openai import packed
from clipjax.weights.settings import Settings

NAME = re.compile(r"vit_(\w+)_patch(\d+)_siglip_(\d+)")
# timm's names → width, layers, heads, MLP width of the image tower.
TOWERS = {
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
    "so400m": (1152, 27, 16, 4304),
}
# The towers that timm has, by name and patch → the smallest image, and the activation that timm
# computes it with, whatever open_clip's configuration says of the text tower's.
VARIANTS = {
    ("base", 16): (224, "gelu"),
    ("base", 32): (256, "gelu_tanh"),
    ("large", 16): (256, "gelu"),
    ("so400m", 14): (224, "gelu"),
    ("so400m", 16): (256, "gelu_tanh"),
}
EPSILON = 1e-6  # of timm's LayerNorms
CLEANING = "canonicalize"  # open_clip's name of what SigLIP does to a text


def model_of(config: Mapping[str, Any], *, file: str = CONFIG) -> dict[str, Any]:
    """The model, as of `zoo.MODELS`, of an `open_clip_config.json`; DataError if there is none."""
    whole = Settings(config, file=file)
    model = whole.part("model_cfg")
    vision, text = model.part("vision_cfg"), model.part("text_cfg")
    open_clip.check(model, known=open_clip.MODEL_KEYS)
    name = NAME.fullmatch(str(vision.given("timm_model_name")))
    variant = (name[1], int(name[2])) if name else ("", 0)
    if not name or variant not in VARIANTS:
        raise vision.fail("timm_model_name", "is not read")
    width, layers, heads, hidden = TOWERS[name[1]]
    _, activation = VARIANTS[variant]
    if model.whole("embed_dim") != width:
        raise model.fail("embed_dim", f"is not the image tower's width of {width}")
    if open_clip.activation_of(model, text) != activation:
        raise DataError(
            f"{file}: open_clip computes the towers with different activations; take the model as"
            " transformers has it"
        )
    if open_clip.epsilon_of(text) != EPSILON:
        raise text.fail("norm_kwargs", f"is not the image tower's epsilon of {EPSILON}")
    words = open_clip.text_of(text, cleaning=CLEANING)
    for key, value in siglip.SHARED["text"].items():
        if words.pop(key) != value:
            raise DataError(f"{file}: text_cfg describes no SigLIP's text tower ({key})")
    return siglip.model(
        width=width,
        heads=heads,
        activation=activation,
        epsilon=EPSILON,
        vision={
            "image_size": vision.side("image_size", int(name[3])),
            "patch_size": int(name[2]),
            "layers": layers,
            "mlp_ratio": hidden / width,
        },
        text=words,
    ) | open_clip.images_of(whole)


def layout(model: Mapping[str, Any]) -> Layout:
    """Where our parameters lie."""
    trunk = "visual.trunk"
    block, pool = f"{trunk}.blocks.{{i}}", f"{trunk}.attn_pool"
    return {
        "vision/patch_embedding/kernel": Array(f"{trunk}.patch_embed.proj.weight", CONVOLUTION),
        "vision/patch_embedding/bias": Array(f"{trunk}.patch_embed.proj.bias"),
        "vision/position_embedding": Array(f"{trunk}.pos_embed", ROW),
        **norm("vision/blocks/ln_1", f"{block}.norm1"),
        **norm("vision/blocks/ln_2", f"{block}.norm2"),
        **packed("vision/blocks/attention", f"{block}.attn.qkv."),
        **joined("vision/blocks/attention/out", f"{block}.attn.proj"),
        **linear("vision/blocks/mlp/up", f"{block}.mlp.fc1"),
        **linear("vision/blocks/mlp/down", f"{block}.mlp.fc2"),
        **norm("vision/ln_post", f"{trunk}.norm"),
        "vision/pool/probe": Array(f"{pool}.latent", ROWS),
        **linear("vision/pool/attention/query", f"{pool}.q"),
        **packed("vision/pool/attention", f"{pool}.kv.", names=("key", "value")),
        **joined("vision/pool/attention/out", f"{pool}.proj"),
        **norm("vision/pool/ln", f"{pool}.norm"),
        **linear("vision/pool/mlp/up", f"{pool}.mlp.fc1"),
        **linear("vision/pool/mlp/down", f"{pool}.mlp.fc2"),
        **openai.text_layout(model["text"], prefix="text."),
        "logit_scale": Array("logit_scale"),
        "logit_bias": Array("logit_bias"),
    }


def write(
    folder: pathlib.Path, *, model: Mapping[str, Any], params: Any, tokenizer: Tokenizer
) -> None:
    """Fill an empty folder with what `open_clip.create_model("local-dir:FOLDER")` loads.

    Raises:
      DataError: open_clip has no such model.
    """
    cleaning = CLEANING if type(tokenizer) is SiglipTokenizer else ""
    files.write_json(folder / CONFIG, config_of(model_config.uniform(model), cleaning=cleaning))
    tensors = arrays.Written(params, layout=layout(model))
    files.write_safetensors(folder / WEIGHTS[0], tensors)
    tokenizers.publish(tokenizer_files.for_transformers(tokenizer), folder=folder)


def config_of(model: Mapping[str, Any], *, cleaning: str = CLEANING) -> dict[str, Any]:
    """The `open_clip_config.json` of our complete model; DataError if open_clip has no such.

    Args:
      model: ours, complete.
      cleaning: open_clip's name of what its tokenizer does to a text first; "" leaves punctuation.
    """
    siglip.check(model, where="open_clip")
    vision, text = model["vision"], model["text"]
    width = vision["width"]
    hidden = round(width * vision["mlp_ratio"])
    sizes = (width, vision["layers"], width // vision["head_width"], hidden)
    names = {sizes: name for name, sizes in TOWERS.items()}
    variant = (names.get(sizes, ""), vision["patch_size"])
    if variant not in VARIANTS:
        known = ", ".join(f"{name}/{patch}" for name, patch in VARIANTS)
        raise DataError(f"open_clip has no SigLIP of these sizes; it has {known}")
    smallest, activation = VARIANTS[variant]
    other = "huggingface" if model["image_resize"] == "squash" else "clipjax"
    for key, value in (("activation", activation), ("layer_norm_epsilon", EPSILON)):
        if model[key] != value:
            raise DataError(
                f"open_clip computes this image tower with {key}={value}, not {model[key]}; write"
                f" --format={other}"
            )
    config = {
        "embed_dim": model["embed_dim"],
        "custom_text": True,
        "vision_cfg": {
            "image_size": vision["image_size"],
            "timm_model_name": f"vit_{variant[0]}_patch{variant[1]}_siglip_{smallest}",
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        **open_clip.rest_of(model, text, own_tokenizer=True),
    }
    if cleaning:
        config["text_cfg"]["tokenizer_kwargs"] = {"clean": cleaning}
    return {
        "model_cfg": config,
        "preprocess_cfg": open_clip.preprocessing_of(model),
    }
