"""Are the kernels right on this very device? Training asks before it uses them.

They are tested in interpret mode; what a compiler makes of them on a real TPU, only that TPU shows.
One block of each tower, forward and backward, at the run's own shapes, is compared with the plain
form in float32.
"""

from typing import Any

import jax
import jax.numpy as jnp

from clipjax.models.clip import CLIP
from clipjax.models.kernels.rows import Place
from clipjax.models.shapes import CaptioningConfig, TextConfig, VisionConfig
from clipjax.models.transformer import Block

MARGIN = 3.0  # times the plain form's own rounding error that the kernels may be off
FLOOR = 1e-3  # a relative error that is none


def errors(model: CLIP, *, place: Place) -> dict[str, tuple[float, float]]:
    """{tower: (error of the kernels, error of the plain form)}, see `worst_error`.

    Args:
      model: whose blocks to check, one example each.
      place: a mesh of one device of this process.
    """
    vision, text = model.config.vision, model.config.text
    dtype = jnp.dtype(model.config.dtype)
    blocks = {}
    if isinstance(vision, VisionConfig):
        tokens = vision.class_token + (vision.image_size // vision.patch_size) ** 2
        blocks["vision"] = (tokens, vision.width, vision.width // vision.head_width, False)
    if isinstance(text, TextConfig):
        blocks["text"] = (text.context_length, text.width, text.heads, text.causal)
    if isinstance(text, CaptioningConfig):
        tokens = text.prefix + text.context_length - 1
        blocks["text"] = (tokens, text.width, text.heads, True)
    settings = {"activation": model.config.activation, "epsilon": model.config.layer_norm_epsilon}
    return {
        tower: _errors(*shape, settings=settings, dtype=dtype, place=place)
        for tower, shape in blocks.items()
    }


def passes(kernels: float, plain: float) -> bool:
    """Whether the kernels' error is what rounding explains; NaN does not pass."""
    return kernels <= max(MARGIN * plain, FLOOR)


def _errors(
    tokens: int,
    width: int,
    heads: int,
    causal: bool,
    *,
    settings: dict[str, Any],
    dtype: Any,
    place: Place,
) -> tuple[float, float]:
    x = jax.random.normal(jax.random.key(0), (1, tokens, width)).astype(dtype)

    def results(dtype: Any, place: Place | None) -> Any:
        block = Block(
            layers=1,
            heads=heads,
            mlp_width=2 * width,
            **settings,
            dtype=dtype,
            param_dtype=jnp.float32,
            constrain=lambda x: x,
            causal=causal,
            place=place,
        )
        params = block.clone(place=None).init(jax.random.key(1), x.astype(dtype))

        def loss(params: Any, x: jax.Array) -> Any:
            out = block.apply(params, x)
            assert isinstance(out, jax.Array)
            return jnp.sum(jnp.sin(out.astype(jnp.float32))), out

        gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        (_, out), gradients = jax.jit(gradient)(params, x.astype(dtype))
        return out, gradients

    with jax.default_matmul_precision("highest"):
        exact = results(jnp.float32, None)
    return worst_error(results(dtype, place), exact), worst_error(results(dtype, None), exact)


def worst_error(actual: Any, exact: Any) -> float:
    """The largest |difference| / |exact| of a leaf; |exact| at least 1% of the largest."""
    sizes = [_norm(leaf) for leaf in jax.tree.leaves(exact)]
    differences = [_norm(d) for d in jax.tree.leaves(jax.tree.map(jnp.subtract, actual, exact))]
    floor = 1e-2 * max(sizes)
    return max(d / max(size, floor) for d, size in zip(differences, sizes, strict=True))


def _norm(x: jax.Array) -> float:
    return float(jnp.linalg.norm(x.astype(jnp.float32)))
