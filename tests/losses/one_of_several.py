"""One process of several: every loss over all their devices, its own rows against the oracle.

Started by test_several_processes.py; prints the largest error and leaves with 0 if it is small.
"""

from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from clipjax import losses
from clipjax.parallel import distributed
from tests.losses import oracle


def unit_rows(seed):
    x = np.random.default_rng(seed).normal(size=(64, 16))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def main():
    distributed.initialize()
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "fsdp"))
    assert jax.process_count() == 2
    axes = mesh.axis_names
    sharding = NamedSharding(mesh, PartitionSpec(axes))
    arguments = unit_rows(0), unit_rows(1), 10.0, -3.0
    embeds = [
        jax.make_array_from_callback(x.shape, sharding, partial(np.ndarray.__getitem__, x))
        for x in arguments[:2]
    ]
    for name in losses.LOSSES:

        def loss(image, text, scale, bias, name=name):
            return losses.get(name)(
                image, text, logit_scale=scale, logit_bias=bias, mesh=mesh, batch_axes=axes
            )

        step = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3), has_aux=True))
        (value, _), gradients = step(*embeds, *arguments[2:])
        positive, negative = oracle.masks(64)
        function = partial(oracle.LOSSES[name], positive=positive, negative=negative)
        expected, expected_gradients = oracle.value_and_grad(function, *arguments)
        own = [(s.data, e[s.index]) for g, e in zip(gradients, expected_gradients, strict=True)
               for s in g.addressable_shards]  # fmt: skip
        error = oracle.error(*zip(*own, strict=True))
        print(f"{name}: value {abs(float(value) / expected - 1):.1e}, gradients {error:.1e}")
        assert abs(float(value) / expected - 1) < 1e-5 and error < 1e-5


if __name__ == "__main__":
    main()
