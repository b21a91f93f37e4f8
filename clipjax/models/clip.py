"""CLIP: two towers, the joint embedding and the logit scale; built by `build.py` and the API."""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from clipjax.models import config as settings
from clipjax.models import pixels, towers
from clipjax.models.baselines.prediction import CaptionPredictor
from clipjax.models.compute import Compute, Constrain, identity
from clipjax.models.config import ClipConfig
from clipjax.models.kernels.rows import KernelMesh
from clipjax.models.layers import l2_normalize

INITIAL_LOGIT_SCALE = math.log(1 / 0.07)  # paper section 2.5; the parameter is a logarithm
# With a sigmoid loss: nearly all pairs are negative, and start so (SigLIP, Zhai et al. 2023).
SIGMOID_LOGIT_SCALE, SIGMOID_LOGIT_BIAS = math.log(10), -10.0


class CLIP(nn.Module):
    """Two encoders into one space (paper section 2.4).

    Attributes:
      config: what is computed.
      compute: how.
    """

    config: ClipConfig
    compute: Compute = Compute()

    def setup(self) -> None:
        self.vision = towers.build(self.config, "vision", compute=self.compute)
        self.text = towers.build(self.config, "text", compute=self.compute)
        biased = self.config.logit_bias
        scale = SIGMOID_LOGIT_SCALE if biased else INITIAL_LOGIT_SCALE
        constant = nn.initializers.constant
        self.logit_scale = self.param("logit_scale", constant(scale), (), jnp.float32)
        if biased:
            self.bias = self.param("logit_bias", constant(SIGMOID_LOGIT_BIAS), (), jnp.float32)

    def encode_image(
        self, image: jax.Array, *, patches: jax.Array | None = None, train: bool = False
    ) -> jax.Array:
        """uint8 [B, H, W, 3] → float32 [B, E], L2-normalised.

        With `patches`, int32 [B, K], a Vision Transformer sees these alone, counted in row-major
        order. With `train` BatchNorm goes by the batch, and updates collection `batch_stats`.
        """
        chosen = {} if patches is None else {"patches": patches}
        return l2_normalize(
            self.vision(pixels.normalize_pixels(image, self.config), train=train, **chosen)
        )

    def image_features(self, image: jax.Array) -> jax.Array:
        """uint8 [B, H, W, 3] → float32 [B, D], before the projection: what probes are trained on
        (paper, appendix A.3). Of a tower without a projection, what it gives."""
        return self.vision(pixels.normalize_pixels(image, self.config), project=False)

    def encode_text(self, text: jax.Array) -> jax.Array:
        """Token ids int32 [B, T], T = context length → float32 [B, E], L2-normalised."""
        return l2_normalize(self.text(text))

    def embed(
        self,
        image: jax.Array,
        text: jax.Array,
        *,
        patches: jax.Array | None = None,
        train: Collection[str] = (),
    ) -> dict[str, jax.Array]:
        """Both embeddings, `image_embed` and `text_embed`, float32 [B, E].

        `train` names the towers that are being trained, "vision" and "text"; `patches` as above.
        """
        return {
            "image_embed": self.encode_image(image, patches=patches, train="vision" in train),
            "text_embed": self.encode_text(text),
        }

    def scalars(self) -> dict[str, jax.Array]:
        """What turns cosines into logits, float32 []: `logit_scale`, the multiplier, and with
        `logit_bias` what is added."""
        scale = {"logit_scale": jnp.exp(self.logit_scale)}
        return scale | ({"logit_bias": self.bias} if self.config.logit_bias else {})

    def __call__(self, image: jax.Array, text: jax.Array) -> dict[str, jax.Array]:
        """`embed` and `scalars` together."""
        return self.embed(image, text) | self.scalars()


def from_dict(
    model: Mapping[str, Any],
    *,
    constrain: Constrain = identity,
    kernel_mesh: KernelMesh | None = None,
) -> Any:
    """The model that a nested dict describes, see `config.py`: a CLIP, or the `CaptionPredictor`
    that it is compared with.

    A key `name` is a label and ignored. Raises ConfigError naming the key that is unknown,
    missing or impossible.
    """
    config = settings.parse(model)
    kind = CaptionPredictor if config.text.kind in settings.PREDICTING else CLIP
    compute = Compute(
        dtype=jnp.dtype(config.dtype),
        param_dtype=jnp.dtype(config.param_dtype),
        scan=config.scan,
        constrain=constrain,
        kernel_mesh=kernel_mesh,
    )
    return kind(config, compute)


def initialise(model: CLIP) -> Callable[[jax.Array], dict[str, Any]]:
    """A function of a PRNG key that returns the model's variables; fit for `jit`, `eval_shape`.

    `params`, and with BatchNorm its `batch_stats`.
    """

    # One example, which no mesh could share: what works on many devices is left out.
    compute = dataclasses.replace(model.compute, constrain=identity, kernel_mesh=None)
    model = model.clone(compute=compute)

    def from_key(key: jax.Array) -> dict[str, Any]:
        size = model.config.vision.image_size
        image = jnp.zeros((1, size, size, 3), jnp.uint8)
        text = jnp.zeros((1, model.config.text.context_length), jnp.int32)
        return dict(model.init(key, image, text))

    return from_key
