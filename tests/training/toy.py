"""The real step around towers of one matrix, which compiles in a moment."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from clipjax.parallel import mesh as meshes
from clipjax.parallel import sharding
from clipjax.training import objectives
from clipjax.training.state import make_init
from clipjax.training.step import make_train_step

ROWS, PIXELS, TOKENS, WIDTH = 16, 8, 4, 256
PATCHES = PIXELS * PIXELS


class Toy:
    """A program like `build.Program` on `devices` devices, run with `step` after `start`."""

    def __init__(self, *, devices=2, micro_batches=1, state=None, **options):
        self.mesh = meshes.make_mesh(
            {"data": 1, "fsdp": devices, "tensor": 1}, devices=jax.devices()[:devices]
        )
        optimizer = optax.adam(1e-2)
        init = make_init(variables, optimizer=optimizer, **(state or {}))
        self.shapes = jax.eval_shape(init, jax.random.key(0))
        self.shardings = sharding.shardings(self.shapes, mesh=self.mesh)
        self.abstract = jax.tree.map(
            lambda x, placed: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placed),
            self.shapes,
            self.shardings,
        )
        self.init = jax.jit(init, out_shardings=self.shardings)
        step = make_train_step(
            embed,
            lambda params: {"logit_scale": jnp.exp(params["logit_scale"])},
            trainable=jax.tree.map(lambda _: True, self.shapes.params),
            objective=objectives.contrastive(
                "softmax_gather", embed_dtype="float32", duplicates="negative"
            ),
            optimizer=optimizer,
            schedule=optax.constant_schedule(1e-2),
            mesh=self.mesh,
            micro_batches=micro_batches,
            patches=PATCHES,
            **options,
        )
        placed = (self.shardings, sharding.replicated(self.mesh))
        self.compiled = jax.jit(step, out_shardings=placed)

    def start(self):
        return self.init(jax.random.key(1))

    def step(self, state, seed):
        """(state, metrics) after a batch of random pairs."""
        placed = sharding.to_device(batch(seed), mesh=self.mesh, batch_size=ROWS)
        return self.compiled(state, placed)


def batch(seed):
    """Random pairs, on the host."""
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (ROWS, PIXELS, PIXELS, 3)).astype(np.uint8),
        "text": rng.integers(1, 99, (ROWS, TOKENS)).astype(np.int32),
        "record_id": np.arange(ROWS, dtype=np.uint32),
    }


def variables(key):
    keys = jax.random.split(key)
    shapes = {"vision": (PIXELS * PIXELS * 3, WIDTH), "text": (TOKENS, WIDTH)}
    params = {
        tower: {"kernel": jax.random.normal(own, shape)}
        for own, (tower, shape) in zip(keys, shapes.items(), strict=True)
    }
    stats = {"vision": {"mean": jnp.zeros(PIXELS * PIXELS * 3)}}
    return {"params": {**params, "logit_scale": jnp.zeros(())}, "batch_stats": stats}


def embed(params, batch_stats, image, text, patches=None):
    """Pixels less their running mean; a patch is a pixel, and one that is left out is black."""
    pixels = image.reshape(len(image), PATCHES, 3) / 255.0
    if patches is not None:
        pixels *= jax.nn.one_hot(patches, PATCHES).sum(axis=1)[:, :, None]
    pixels = pixels.reshape(len(image), -1)
    mean = batch_stats["vision"]["mean"]
    inputs = {"vision": pixels - mean, "text": jnp.sin(text.astype(jnp.float32))}
    outputs = {
        name: jnp.matmul(inputs[tower], params[tower]["kernel"], precision="highest")
        for tower, name in (("vision", "image_embed"), ("text", "text_embed"))
    }
    outputs = {name: x / jnp.linalg.norm(x, axis=-1, keepdims=True) for name, x in outputs.items()}
    new = 0.9 * mean + 0.1 * jnp.mean(pixels, axis=0)
    return outputs, {"vision": {"mean": new}}


def assert_equal(a, b):
    """Bit for bit, of trees."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()
