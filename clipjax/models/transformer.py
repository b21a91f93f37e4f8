"""A stack of pre-LayerNorm transformer blocks, scanned or looped; the body of both towers."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from clipjax.models.attention import Attention
from clipjax.models.compute import Compute
from clipjax.models.config import BlockConfig
from clipjax.models.kernels import layer_norm as kernel
from clipjax.models.layers import Mlp, NormParams, layer_norm

# What the backward pass finds saved: everything; each block's input only; that and the MLP's inner
# features before the activation, the dearest product to make again; the block's input and the
# results of all products without batch dimensions, projections and MLP, not the scores.
REMAT_POLICIES: dict[str, Callable[..., bool] | None] = {
    "none": None,
    "block": jax.checkpoint_policies.nothing_saveable,
    "mlp": jax.checkpoint_policies.save_only_these_names("mlp_hidden"),
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Block(nn.Module):
    """x += attention(ln_1(x)); x += mlp(ln_2(x)). [B, T, D] → [B, T, D] in `compute.dtype`.

    Initialised as the released text blocks: attention N(0, D^-½), attention output and second
    MLP matrix N(0, D^-½ (2 layers)^-½), first MLP matrix N(0, (2 D)^-½). The release leaves the
    vision blocks at PyTorch's defaults and the paper is silent; clipjax uses this scheme in both
    towers. Biases start at 0.
    """

    config: BlockConfig
    compute: Compute

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        normal = nn.initializers.normal
        into_stream = normal(width**-0.5 * (2 * self.config.layers) ** -0.5)
        shared = {"kernel_mesh": self.compute.kernel_mesh, **self.compute.dtypes}

        x, y = self.branch(x, norm="ln_1")
        x = x + Attention(
            self.config.heads,
            self.config.causal,
            normal(width**-0.5),
            into_stream,
            name="attention",
            **shared,
        )(y)
        x, y = self.branch(x, norm="ln_2")
        x = x + Mlp(
            self.config.mlp_width,
            self.config.activation,
            normal((2 * width) ** -0.5),
            into_stream,
            name="mlp",
            **shared,
        )(y)
        return self.compute.constrain(x)

    def branch(self, x: jax.Array, *, norm: str) -> tuple[jax.Array, jax.Array]:
        """The stream x, for the way around, and its LayerNorm, for the way through."""
        dtype, param_dtype = self.compute.dtype, self.compute.param_dtype
        scale, bias = NormParams(x.shape[-1], param_dtype, name=norm)()
        settings = {"scale": scale, "bias": bias, "epsilon": self.config.layer_norm_epsilon}
        if self.compute.kernel_mesh is None:
            return x, layer_norm(x, **settings, dtype=dtype)
        return kernel.layer_norm(x, **settings, kernel_mesh=self.compute.kernel_mesh)


def apply_blocks(x: jax.Array, *, blocks: BlockConfig, compute: Compute) -> jax.Array:
    """Run all blocks on x [B, T, D]; call from a module's compact method, which owns them.

    `compute.scan` compiles one block and keeps its parameters stacked under `blocks`; without it
    each is compiled, under `block_0`, `block_1`, ….
    """
    policy = REMAT_POLICIES[blocks.remat]
    block_class = Block
    if policy is not None:
        # Inside a scan the loop itself keeps the compiler from merging the two forward passes.
        block_class = nn.remat(Block, policy=policy, prevent_cse=not compute.scan)
    if not compute.scan:
        for i in range(blocks.layers):
            x = block_class(blocks, compute, name=f"block_{i}")(x)
        return x
    scanned = nn.scan(
        lambda module, x, _: (module(x), None),
        variable_axes={"params": 0},
        split_rngs={"params": True},
        length=blocks.layers,
    )
    x, _ = scanned(block_class(blocks, compute, name="blocks"), x, None)
    return x


def stack_blocks(params: Mapping[str, Any]) -> dict[str, Any]:
    """The same parameters in the layout of scan=True: every `block_0`, `block_1`, … of the tree
    becomes one `blocks`, its leaves with a leading layer dimension. Leaves stay numpy or jax."""
    result: dict[str, Any] = {}
    layers = [key for key in params if re.fullmatch(r"block_\d+", key)]
    for key, value in params.items():
        if key not in layers:
            result[key] = stack_blocks(value) if isinstance(value, Mapping) else value
    if layers:
        blocks = [params[f"block_{i}"] for i in range(len(layers))]
        result["blocks"] = jax.tree.map(_stack, *blocks)
    return result


def unstack_blocks(params: Mapping[str, Any]) -> dict[str, Any]:
    """The same parameters in the layout of scan=False; the inverse of `stack_blocks`."""
    result: dict[str, Any] = {}
    for key, value in params.items():
        if key == "blocks":
            for i in range(len(jax.tree.leaves(value)[0])):
                result[f"block_{i}"] = jax.tree.map(lambda leaf, i=i: leaf[i], value)
        else:
            result[key] = unstack_blocks(value) if isinstance(value, Mapping) else value
    return result


def _stack(*leaves: Any) -> Any:
    stack = np.stack if isinstance(leaves[0], np.ndarray) else jnp.stack
    return stack(leaves)
