"""big_vision's SigLIP checkpoints: one `.npz`, layers apart or stacked; read, not written."""

import pathlib
from collections.abc import Mapping
from typing import Any

from clipjax.common.exits import DataError
from clipjax.weights import model_configs, siglip, tokenizer_files
from clipjax.weights.arrays import ROW, ROWS, Array, Layout
from clipjax.weights.files import Npz
from clipjax.weights.foreign import Foreign, checked

PREFIX = "params/"
ATTENTION, MLP = "MultiHeadDotProductAttention_0", "MlpBlock_0"


def open(file: pathlib.Path) -> Foreign:
    """A SigLIP's `.npz`.

    Raises:
      DataError: damaged, or no SigLIP's.
    """
    tensors = Npz(file)
    prefix = PREFIX if any(name.startswith(PREFIX) for name in tensors.shapes) else ""
    model = model_of({n[len(prefix) :]: s for n, s in tensors.shapes.items()})
    return Foreign(
        origin=f"big_vision's {file.name}",
        model=model,
        tensors=tensors,
        layout=layout(tensors.shapes, prefix=prefix),
        ignored=(f"(?!{prefix}).*",) if prefix else (),
        find_tokenizer=lambda named: tokenizer_files.find(
            named,
            folder=file.parent,
            kind="siglip",
            context_length=model["text"]["context_length"],
        ),
        notes=(f"as big_vision computes every SigLIP: {model_configs.summary(checked(model))}",),
    )


def model_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The model, as of `zoo.MODELS`, that the shapes describe.

    Raises:
      DataError: they are no SigLIP's.
    """
    try:
        patch, _, _, width = shapes["img/embedding/kernel"]
        _, tokens, _ = shapes["img/pos_embedding"]
        _, length, text_width = shapes["txt/pos_embedding"]
        vocab_size, _ = shapes["txt/Embed_0/embedding"]
        vision = _stack(shapes, "img/Transformer/")
        text = _stack(shapes, "txt/Encoder_0/")
    except KeyError as error:
        raise DataError(f"no SigLIP: {error.args[0]} is missing") from None
    except (ValueError, IndexError):
        raise DataError("no SigLIP: an array has the wrong number of axes") from None
    if 0 in (width, text_width, vision["heads"], text["heads"]):
        raise DataError("no SigLIP: an array holds nothing")
    return siglip.model(
        width=width,
        heads=vision["heads"],
        vision={
            "image_size": round(tokens**0.5) * patch,
            "patch_size": patch,
            "layers": vision["layers"],
            "mlp_ratio": vision["hidden"] / width,
        },
        text={
            "context_length": length,
            "vocab_size": vocab_size,
            "width": text_width,
            "heads": text["heads"],
            "layers": text["layers"],
            "mlp_ratio": text["hidden"] / text_width,
        },
    )


def _stack(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> dict[str, int]:
    stacked = any(name.startswith(f"{prefix}encoderblock/") for name in shapes)
    block = "encoderblock" if stacked else "encoderblock_0"
    query = shapes[f"{prefix}{block}/{ATTENTION}/query/kernel"]
    up = shapes[f"{prefix}{block}/{MLP}/Dense_0/kernel"]
    names = {name[len(prefix) :].split("/")[0] for name in shapes if name.startswith(prefix)}
    apart = len([name for name in names if name.startswith("encoderblock_")])
    _, heads, _ = query[-3:]
    return {"layers": query[0] if stacked else apart, "heads": heads, "hidden": up[-1]}


def layout(shapes: Mapping[str, tuple[int, ...]], *, prefix: str) -> Layout:
    """Where our parameters lie in a file of these names."""
    pool = "img/MAPHead_0"
    places = {
        "vision/patch_embedding/kernel": Array("img/embedding/kernel"),
        "vision/patch_embedding/bias": Array("img/embedding/bias"),
        "vision/position_embedding": Array("img/pos_embedding", ROW),
        **_blocks("vision/blocks", "img/Transformer", shapes, prefix=prefix),
        **_norm("vision/ln_post", "img/Transformer/encoder_norm"),
        "vision/pool/probe": Array(f"{pool}/probe", ROWS),
        **_attention("vision/pool/attention", f"{pool}/{ATTENTION}"),
        **_norm("vision/pool/ln", f"{pool}/LayerNorm_0"),
        **_mlp("vision/pool/mlp", f"{pool}/{MLP}"),
        "text/token_embedding/embedding": Array("txt/Embed_0/embedding"),
        "text/position_embedding": Array("txt/pos_embedding", ROW),
        **_blocks("text/blocks", "txt/Encoder_0", shapes, prefix=prefix),
        **_norm("text/ln_final", "txt/Encoder_0/encoder_norm"),
        **_dense("text/projection", "txt/head"),
        "logit_scale": Array("t", ROW),
        "logit_bias": Array("b", ROW),
    }
    return {ours: Array(prefix + array.name, array.form) for ours, array in places.items()}


def _blocks(ours: str, theirs: str, shapes: Mapping[str, Any], *, prefix: str) -> Layout:
    stacked = any(name.startswith(f"{prefix}{theirs}/encoderblock/") for name in shapes)
    block = f"{theirs}/encoderblock" if stacked else f"{theirs}/encoderblock_{{i}}"
    return {
        **_norm(f"{ours}/ln_1", f"{block}/LayerNorm_0"),
        **_norm(f"{ours}/ln_2", f"{block}/LayerNorm_1"),
        **_attention(f"{ours}/attention", f"{block}/{ATTENTION}"),
        **_mlp(f"{ours}/mlp", f"{block}/{MLP}"),
    }


def _attention(ours: str, theirs: str) -> Layout:
    return {
        name_of: array
        for name in ("query", "key", "value", "out")
        for name_of, array in _dense(f"{ours}/{name}", f"{theirs}/{name}").items()
    }


def _mlp(ours: str, theirs: str) -> Layout:
    up = _dense(f"{ours}/up", f"{theirs}/Dense_0")
    return {**up, **_dense(f"{ours}/down", f"{theirs}/Dense_1")}


def _dense(ours: str, theirs: str) -> Layout:
    return {f"{ours}/{part}": Array(f"{theirs}/{part}") for part in ("kernel", "bias")}


def _norm(ours: str, theirs: str) -> Layout:
    return {f"{ours}/{part}": Array(f"{theirs}/{part}") for part in ("scale", "bias")}
