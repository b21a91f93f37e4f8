"""The released state dict (openai/CLIP, model.py): its names, and the model that its shapes say.

A release is a TorchScript archive, read through `torch_pickles`. open_clip and many others keep its
names, but not the three numbers that OpenAI's archives hold beside the weights: only with these is
a state dict the release's, whose activation and heads no shape tells.
"""

from collections.abc import Collection, Mapping
from typing import Any

from clipjax.common.exits import DataError
from clipjax.weights.arrays import CONVOLUTION, LINEAR, Array, Layout, linear, merged, norm
from clipjax.weights.foreign import BATCH_STATS

HEAD_WIDTH = 64  # in every released model; the shapes do not say
BIAS = "logit_bias"  # of the logits, in open_clip's models for the sigmoid loss
NUMBERS = ("input_resolution", "context_length", "vocab_size")
IGNORED = (r"input_resolution|context_length|vocab_size|attn_mask", r".*\.num_batches_tracked")


def is_release(names: Collection[str]) -> bool:
    """Whether arrays of these names come from one of OpenAI's archives."""
    return all(name in names for name in NUMBERS)


def model_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The model, as of `zoo.MODELS`, that a state dict's shapes describe, as the release infers it.

    Raises:
      DataError: it is not one of a CLIP.
    """
    try:
        context, text_width = shapes["positional_embedding"]
        vocab_size, _ = shapes["token_embedding.weight"]
        _, embed_dim = shapes["text_projection"]
        vision = _vit(shapes) if "visual.proj" in shapes else _resnet(shapes)
    except KeyError as error:
        raise DataError(f"no CLIP as released: {error.args[0]} is missing") from None
    except ValueError:
        raise DataError("no CLIP as released: an array has the wrong number of axes") from None
    return {
        "embed_dim": embed_dim,
        "activation": "quick_gelu",
        "logit_bias": BIAS in shapes,
        "vision": vision,
        "text": {
            "context_length": context,
            "vocab_size": vocab_size,
            "width": text_width,
            "heads": text_width // HEAD_WIDTH,
            "layers": _count(shapes, "transformer.resblocks."),
        },
    }


def _vit(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    tokens, width = shapes["visual.positional_embedding"]
    _, _, patch_size, _ = shapes["visual.conv1.weight"]
    return {
        "image_size": round((tokens - 1) ** 0.5) * patch_size,
        "patch_size": patch_size,
        "width": width,
        "layers": _count(shapes, "visual.transformer.resblocks."),
        "head_width": HEAD_WIDTH,
        "mlp_ratio": 4,
    }


def _resnet(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    tokens, _ = shapes["visual.attnpool.positional_embedding"]
    width, _, _, _ = shapes["visual.layer1.0.conv1.weight"]
    stages = [_count(shapes, f"visual.layer{stage}.") for stage in (1, 2, 3, 4)]
    return {
        "kind": "resnet",
        "image_size": round((tokens - 1) ** 0.5) * 32,
        "width": width,
        "layers": tuple(stages),
        "head_width": HEAD_WIDTH,
    }


def _count(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> int:
    return len({name[len(prefix) :].split(".")[0] for name in shapes if name.startswith(prefix)})


def layout(model: Mapping[str, Any], *, text: str = "") -> Layout:
    """Where our parameters and BatchNorm's averages lie; `text` is a prefix of the text tower's."""
    vision = model["vision"]
    return {
        **(_resnet_layout(vision) if vision.get("kind") == "resnet" else _vit_layout()),
        **text_layout(model["text"], prefix=text),
        "logit_scale": Array("logit_scale"),
        "logit_bias": Array(BIAS),
    }


def _vit_layout() -> Layout:
    return {
        "vision/class_embedding": Array("visual.class_embedding"),
        "vision/patch_embedding/kernel": Array("visual.conv1.weight", CONVOLUTION),
        "vision/position_embedding": Array("visual.positional_embedding"),
        **norm("vision/ln_pre", "visual.ln_pre"),
        **blocks("vision/blocks", "visual.transformer.resblocks.{i}"),
        **norm("vision/ln_post", "visual.ln_post"),
        "vision/projection/kernel": Array("visual.proj"),
    }


def _resnet_layout(vision: Mapping[str, Any]) -> Layout:
    pool = "visual.attnpool"
    arrays = {
        "vision/pool/position_embedding": Array(f"{pool}.positional_embedding"),
        **linear("vision/pool/attention/query", f"{pool}.q_proj"),
        **linear("vision/pool/attention/key", f"{pool}.k_proj"),
        **linear("vision/pool/attention/value", f"{pool}.v_proj"),
        **merged("vision/pool/attention/out", f"{pool}.c_proj"),
    }
    for i in (1, 2, 3):
        arrays |= _conv_norm(f"vision/stem_{i}", f"visual.conv{i}", f"visual.bn{i}")
    for stage, count in enumerate(vision["layers"], 1):
        for i in range(count):
            ours, theirs = f"vision/stage_{stage}_block_{i}", f"visual.layer{stage}.{i}"
            for number, name in enumerate(("in", "middle", "out"), 1):
                arrays |= _conv_norm(
                    f"{ours}/{name}", f"{theirs}.conv{number}", f"{theirs}.bn{number}"
                )
            shortcut = f"{theirs}.downsample"
            arrays |= _conv_norm(f"{ours}/shortcut", f"{shortcut}.0", f"{shortcut}.1")
    return arrays


def _conv_norm(ours: str, conv: str, norm_name: str) -> Layout:
    return {
        f"{ours}/conv/kernel": Array(f"{conv}.weight", CONVOLUTION),
        **norm(f"{ours}/norm", norm_name),
        f"{BATCH_STATS}/{ours}/norm/mean": Array(f"{norm_name}.running_mean"),
        f"{BATCH_STATS}/{ours}/norm/var": Array(f"{norm_name}.running_var"),
    }


def text_layout(text: Mapping[str, Any], *, prefix: str = "") -> Layout:
    """Layout of the text tower; open_clip writes a projection with bias as a layer of PyTorch's."""
    projection = f"{prefix}text_projection"
    with_bias = text.get("projection_bias", False)
    return {
        "text/token_embedding/embedding": Array(f"{prefix}token_embedding.weight"),
        "text/position_embedding": Array(f"{prefix}positional_embedding"),
        **blocks("text/blocks", f"{prefix}transformer.resblocks.{{i}}"),
        **norm("text/ln_final", f"{prefix}ln_final"),
        **(
            linear("text/projection", projection)
            if with_bias
            else {"text/projection/kernel": Array(projection)}
        ),
    }


def blocks(ours: str, theirs: str) -> Layout:
    """Layout of a stack of transformer blocks; query, key and value are one array."""
    return {
        **norm(f"{ours}/ln_1", f"{theirs}.ln_1"),
        **norm(f"{ours}/ln_2", f"{theirs}.ln_2"),
        **packed(f"{ours}/attention", f"{theirs}.attn.in_proj_"),
        **merged(f"{ours}/attention/out", f"{theirs}.attn.out_proj"),
        **linear(f"{ours}/mlp/up", f"{theirs}.mlp.c_fc"),
        **linear(f"{ours}/mlp/down", f"{theirs}.mlp.c_proj"),
    }


def packed(ours: str, theirs: str, *, names: tuple[str, ...] = ("query", "key", "value")) -> Layout:
    """Several products with bias whose rows lie in one array, `theirs`weight and `theirs`bias."""
    arrays = {}
    for part, name in enumerate(names):
        third = {"part": part, "parts": len(names)}
        arrays[f"{ours}/{name}/kernel"] = Array(f"{theirs}weight", LINEAR, **third)
        arrays[f"{ours}/{name}/bias"] = Array(f"{theirs}bias", "flat", **third)
    return arrays
