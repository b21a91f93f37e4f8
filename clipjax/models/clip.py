"""CLIP: the two towers, the joint embedding and the logit scale; built by `build.py` and the API.

The only place that normalises pixels, so that everything before it handles uint8.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from clipjax.models import shapes
from clipjax.models.kernels.rows import Place
from clipjax.models.layers import l2_normalize
from clipjax.models.resnet import ModifiedResNet
from clipjax.models.shapes import ClipConfig
from clipjax.models.text import TextTransformer
from clipjax.models.transformer import Constrain
from clipjax.models.vit import VisionTransformer

INITIAL_LOGIT_SCALE = math.log(1 / 0.07)  # paper section 2.5; the parameter is a logarithm
# With a sigmoid loss: nearly all pairs are negative, and start so (SigLIP, Zhai et al. 2023).
SIGMOID_LOGIT_SCALE, SIGMOID_LOGIT_BIAS = math.log(10), -10.0

VISION: dict[str, Any] = {"vit": VisionTransformer, "resnet": ModifiedResNet}
TEXT: dict[str, Any] = {"transformer": TextTransformer}


def identity(x: jax.Array) -> jax.Array:
    """x: the default of `CLIP.constrain`, for one device."""
    return x


def normalize_pixels(image: jax.Array, *, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """uint8 [B, H, W, 3] → float32 [B, H, W, 3] less the mean, over the deviation, of pixels in
    [0, 1]."""
    center = 255 * jnp.asarray(mean, jnp.float32)
    scale = 1 / (255 * jnp.asarray(std, jnp.float32))
    return (image.astype(jnp.float32) - center) * scale


class CLIP(nn.Module):
    """Two encoders into one space (paper section 2.4).

    `constrain` is applied to activations [B, ...] at block boundaries: the caller's sharding
    constraint. `place`, if given, is where kernels replace plain forms (see `kernels`).
    """

    config: ClipConfig
    constrain: Constrain = identity
    place: Place | None = None

    def setup(self) -> None:
        shared = {
            "embed_dim": self.config.embed_dim,
            "activation": self.config.activation,
            "epsilon": self.config.layer_norm_epsilon,
            "scan": self.config.scan,
            "dtype": jnp.dtype(self.config.dtype),
            "param_dtype": jnp.dtype(self.config.param_dtype),
            "constrain": self.constrain,
            "place": self.place,
        }
        self.vision = _build(VISION[self.config.vision.kind], self.config.vision, shared)
        self.text = _build(TEXT[self.config.text.kind], self.config.text, shared)
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
        return l2_normalize(self.vision(self._pixels(image), train=train, **chosen))

    def image_features(self, image: jax.Array) -> jax.Array:
        """uint8 [B, H, W, 3] → float32 [B, D], before the projection: what probes are trained on
        (paper, appendix A.3). Of a tower without a projection, what it gives."""
        return self.vision(self._pixels(image), project=False)

    def _pixels(self, image: jax.Array) -> jax.Array:
        return normalize_pixels(image, mean=self.config.image_mean, std=self.config.image_std)

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


def _build(module: Any, tower: Any, shared: dict[str, Any]) -> Any:
    """A tower from its settings and from what both share, as far as it knows them."""
    known = {field.name for field in dataclasses.fields(module)}
    settings = {key: value for key, value in vars(tower).items() if key != "kind"}
    return module(**settings, **{key: value for key, value in shared.items() if key in known})


def from_dict(
    model: Mapping[str, Any],
    *,
    constrain: Constrain = identity,
    place: Place | None = None,
) -> CLIP:
    """The CLIP that a nested dict describes, see `shapes.py`.

    A key `name` is a label and ignored. Raises ConfigError naming the key that is unknown,
    missing or impossible.
    """
    return CLIP(shapes.parse(model), constrain=constrain, place=place)


def initialise(model: CLIP) -> Callable[[jax.Array], dict[str, Any]]:
    """A function of a PRNG key that returns the model's variables; fit for `jit`, `eval_shape`.

    `params`, and with BatchNorm its `batch_stats`.
    """

    # One example, which no mesh could share: what works on many devices is left out.
    model = model.clone(constrain=identity, place=None)

    def from_key(key: jax.Array) -> dict[str, Any]:
        size = model.config.vision.image_size
        image = jnp.zeros((1, size, size, 3), jnp.uint8)
        text = jnp.zeros((1, model.config.text.context_length), jnp.int32)
        return dict(model.init(key, image, text))

    return from_key
