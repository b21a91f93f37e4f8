"""A model that predicts captions from images, which CLIP is compared with (paper, Figure 2).

Two ways to predict: `word_prediction.py` and `captioning.py`. No embedding of a text alone exists;
zero-shot classes are told by which of their prompts the image makes most likely.
"""

from collections.abc import Collection

import jax
from flax import linen as nn

from clipjax.models import pixels, towers
from clipjax.models.compute import Compute
from clipjax.models.config import ClipConfig


class CaptionPredictor(nn.Module):
    """An image tower, whose vector is not normalised, and what predicts the caption from it.

    Attributes as `clip.CLIP`.
    """

    config: ClipConfig
    compute: Compute = Compute()

    def setup(self) -> None:
        self.vision = towers.build(self.config, "vision", compute=self.compute)
        self.text = towers.build(self.config, "text", compute=self.compute)

    def embed(
        self,
        image: jax.Array,
        text: jax.Array,
        *,
        patches: jax.Array | None = None,
        train: Collection[str] = (),
    ) -> dict[str, jax.Array]:
        """`log_likelihood`, of all predicted tokens of a caption together, and `predicted`, their
        number, float32 [B]; the arguments as for `CLIP.embed`."""
        chosen = {} if patches is None else {"patches": patches}
        vector = self.vision(
            pixels.normalize_pixels(image, self.config), train="vision" in train, **chosen
        )
        total, number = self.text(vector, text)
        return {"log_likelihood": total, "predicted": number}

    def scores(self, image: jax.Array, texts: jax.Array) -> jax.Array:
        """uint8 [B, H, W, 3], token ids int32 [C, T] → how likely each text is for each image, the
        mean log-likelihood of its predicted tokens, float32 [B, C]."""
        return self.text.of_each(self.vision(pixels.normalize_pixels(image, self.config)), texts)

    def scalars(self) -> dict[str, jax.Array]:
        """Nothing."""
        return {}

    def __call__(self, image: jax.Array, text: jax.Array) -> dict[str, jax.Array]:
        """`embed`."""
        return self.embed(image, text)
