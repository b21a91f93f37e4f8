"""open_clip's SigLIP folders: an image tower of timm's, open_clip's own text tower."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

from clipjax.common.exits import DataError
from clipjax.data.tokenizers import Tokenizer
from clipjax.models import shapes
from clipjax.weights import arrays, files, open_clip, openai, siglip, tokenizer_files
from clipjax.weights.arrays import CONVOLUTION, ROW, ROWS, Array, Layout, linear, norm
from clipjax.weights.arrays import merged as joined
from clipjax.weights.foreign import Foreign, only_file
from clipjax.weights.open_clip import CONFIG, WEIGHTS
from clipjax.weights.openai import packed

NAME = re.compile(r"vit_(\w+)_patch(\d+)_siglip_(\d+)")
# timm's names → width, layers, heads, MLP width of the image tower.
TOWERS = {
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
    "so400m": (1152, 27, 16, 4304),
}
EXACT, TANH = "gelu", "gelu_tanh"  # timm computes all towers with the first, so400m with the second


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
        layout=layout(model),
        ignored=(),
        find_tokenizer=lambda named: tokenizer_files.find(
            named, folder=folder, kind="siglip", context_length=model["text"]["context_length"]
        ),
    )


def model_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The model, as of `zoo.MODELS`, of an `open_clip_config.json`; DataError as `open`."""
    try:
        model = config["model_cfg"]
        vision, text = model["vision_cfg"], model["text_cfg"]
        found = NAME.fullmatch(vision["timm_model_name"])
        if not found or found[1] not in TOWERS:
            raise DataError(f"{CONFIG}: timm_model_name={vision['timm_model_name']!r} is not read")
        width, layers, heads, hidden = TOWERS[found[1]]
        activation = TANH if found[1] == "so400m" else EXACT
        if open_clip.activation_of(model, text) != activation:
            raise DataError(
                f"{CONFIG}: open_clip computes the towers with different activations; take the"
                " model as transformers has it"
            )
        return siglip.model(
            width=width,
            heads=heads,
            activation=activation,
            epsilon=open_clip.epsilon_of(text),
            vision={
                "image_size": open_clip.square(vision.get("image_size", int(found[3]))),
                "patch_size": int(found[2]),
                "layers": layers,
                "mlp_ratio": hidden / width,
            },
            text={
                key: value
                for key, value in open_clip.text_of(text).items()
                if key not in siglip.SHARED["text"]
            },
        ) | open_clip.images_of(config)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{CONFIG}: {error} is missing or misplaced") from None


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
    files.write_json(folder / CONFIG, config_of(shapes.complete(model)))
    tensors = arrays.Written(params, layout=layout(model))
    files.write_safetensors(folder / WEIGHTS[0], tensors)
    for name, content in tokenizer_files.for_transformers(tokenizer).items():
        (folder / name).write_bytes(content)


def config_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """The `open_clip_config.json` of our complete model; DataError if open_clip has no such."""
    siglip.check(model, where="open_clip")
    vision, text = model["vision"], model["text"]
    width = vision["width"]
    hidden = round(width * vision["mlp_ratio"])
    sizes = (width, vision["layers"], width // vision["head_width"], hidden)
    names = {sizes: name for name, sizes in TOWERS.items()}
    if sizes not in names:
        raise DataError(f"open_clip has no SigLIP of these sizes; it has {', '.join(TOWERS)}")
    if model["activation"] != (TANH if names[sizes] == "so400m" else EXACT):
        raise DataError(
            f"open_clip computes this image tower with another activation than"
            f" {model['activation']}; write --format=huggingface"
        )
    config = {
        "embed_dim": model["embed_dim"],
        "custom_text": True,
        "vision_cfg": {
            "image_size": vision["image_size"],
            "timm_model_name": f"vit_{names[sizes]}_patch{vision['patch_size']}_siglip_224",
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        **open_clip.rest_of(model, text, own_tokenizer=True),
    }
    config["text_cfg"]["tokenizer_kwargs"] = {"clean": "canonicalize"}
    return {
        "model_cfg": config,
        "preprocess_cfg": open_clip.preprocessing_of(model),
    }
