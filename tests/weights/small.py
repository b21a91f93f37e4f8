"""Models small enough for tests, with CLIP's tokenizer over a few merges."""

import jax
import numpy as np

from clipjax.common import trees
from clipjax.data.tokenizers.clip import ClipTokenizer
from clipjax.weights import arrays, formats
from clipjax.weights import siglip as formats_siglip
from clipjax.weights.foreign import shapes_of

MERGES = b"#version: 0.2\nt h\nth e</w>\na t</w>\nc at</w>\nd o\ndo g</w>\n"
TEXTS = ["the cat", "a dog", "Thé  DOG &amp; 2 cats!"]


def tokenizer(context_length=12):
    return ClipTokenizer(MERGES, context_length=context_length)


def model(**changes):
    """A CLIP as released, of a few blocks."""
    shape = {
        "embed_dim": 16,
        "activation": "quick_gelu",
        "vision": {"image_size": 32, "patch_size": 16, "width": 128, "layers": 2},
        "text": {"context_length": 12, "vocab_size": 520, "width": 128, "heads": 2, "layers": 3},
    }
    return {
        key: {**value, **changes.get(key, {})} if isinstance(value, dict) else value
        for key, value in shape.items()
    } | {key: value for key, value in changes.items() if key not in ("vision", "text")}


def siglip(*, vocab_size=320):
    """A SigLIP as released, of a few blocks."""
    return formats_siglip.model(
        width=64,
        heads=2,
        vision={"image_size": 32, "patch_size": 8, "layers": 2, "mlp_ratio": 3.0},
        text={
            **{"context_length": 8, "vocab_size": vocab_size, "width": 48, "heads": 3},
            **{"layers": 3, "mlp_ratio": 2.0},
        },
    )


def params(model, *, seed=0):
    """Random parameters, numpy, in the layout of scan=True; no two alike."""
    rng = np.random.default_rng(seed)

    def value(name, shape):
        base = 1 if name.endswith(("/scale", "/var")) else 0
        return (base + 0.1 * rng.standard_normal(shape)).astype(np.float32)

    return trees.unflatten({name: value(name, shape) for name, shape in shapes_of(model).items()})


def variables(model, *, seed=0):
    """The same with BatchNorm's averages apart, as models are applied to them."""
    found = params(model, seed=seed)
    stats = found.pop("batch_stats", {})
    return {"params": found, "batch_stats": stats}


def write(folder, model, *, to):
    """A folder of the model in another program's format, with `variables` and `tokenizer`."""
    given = {"variables": variables(model), "tokenizer": tokenizer()}
    formats.write(folder, to=to, model=model, **given)


def theirs(params, *, layout):
    """Another program's arrays, contiguous, of our parameters."""
    tensors = arrays.Written(params, layout=layout)
    return {name: np.require(tensors.read(name), requirements="C") for name in tensors.shapes}


def assert_equal(a, b):
    """The same names and bits."""
    jax.tree.map(np.testing.assert_array_equal, a, b)


def images(count=3, size=32, *, seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8))
