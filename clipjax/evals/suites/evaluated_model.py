"""The model that is measured and the set it is measured on, as the protocols see them."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from clipjax.evals import classifier, embed, prompt_files, prompts, suspicion
from clipjax.evals.suites.set_data import SetData
from clipjax.training.checkpoint.digest import digest


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model with its weights.

    Attributes:
      embedder: its encoders, compiled for all devices.
      variables: parameters and BatchNorm averages, on the devices.
      tokenizer: its own.
      image_size: side of its images, in pixels.
      mesh: all devices.
      model: its name, "ViT-B/32" where it has a released shape.
      weights: {"id", "path", …}, for the records.
      dtype: of the towers' matrix products.
      image_resize: how images become squares, see `images.decode_eval`.
      pixel_mean, pixel_std: of pixels in [0, 1], red green blue.
      logit_scale: multiplier of cosines, for probabilities.
    """

    embedder: embed.Embedder
    variables: Any
    tokenizer: Any
    image_size: int
    mesh: Mesh
    model: str
    weights: dict[str, Any]
    dtype: str
    image_resize: str
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    logit_scale: float = 100.0

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How images become pixels."""
        side = self.image_size
        square = {
            "resize": f"shorter side to {side}, Pillow's bicubic",
            "crop": f"centre {side} × {side}",
        }
        if self.image_resize == "squash":
            square = {"resize": f"both sides to {side}, Pillow's bicubic", "crop": "none"}
        return {
            **square,
            "mean": list(self.pixel_mean),
            "deviation": list(self.pixel_std),
        }

    @property
    def precision(self) -> dict[str, str]:
        """Of the towers, and of what follows them."""
        return {
            "towers": self.dtype,
            "similarities": "float32",
            "platform": jax.default_backend(),
        }


def weights_id(variables: Any) -> str:
    """Sixteen hex digits that change with any parameter; a collective."""
    return hashlib.sha256(json.dumps(digest(variables), sort_keys=True).encode()).hexdigest()[:16]


@dataclasses.dataclass
class OnSet:
    """A subject on one set: what protocols share is made once.

    Attributes:
      subject: the model.
      data: the set's evaluation split.
      open_train: opens its training split.
      open_validation: opens its official validation split; gives None where there is none.
      prompts_given: the user's prompts for this set, a file or folder; "" is none.
      classifiers: folder in which zero-shot classifiers are kept.
      folder: that the suite's sets lie in.
      folds_file: official folds or splits (`folds.read`); "" is none.
      poll: called once a batch of images.
    """

    subject: Subject
    data: SetData
    open_train: Callable[[], SetData]
    open_validation: Callable[[], SetData | None] = lambda: None
    prompts_given: str = ""
    classifiers: str = ""
    folds_file: str = ""
    folder: str = ""
    poll: embed.Poll = lambda: False
    _features: dict[str, np.ndarray] = dataclasses.field(default_factory=dict, repr=False)

    @functools.cached_property
    def image_embed(self) -> np.ndarray:
        """Embeddings of the evaluation split, float32 [N, E]."""
        subject = self.subject
        return subject.embedder.images(
            subject.variables, self.data.source, image_size=subject.image_size, poll=self.poll
        )

    def features(self, data: SetData) -> np.ndarray:
        """Features of a split, before the projection, float32 [N, D]; kept for the next probe."""
        key = f"{data.split} {data.source.fingerprint}"
        if key not in self._features:
            subject = self.subject
            self._features[key] = subject.embedder.features(
                subject.variables, data.source, image_size=subject.image_size, poll=self.poll
            )
        return self._features[key]

    def forget(self) -> None:
        """Free what is kept between the protocols of a set."""
        self.__dict__.pop("image_embed", None)
        self._features.clear()

    @functools.cached_property
    def _prompts(self) -> tuple[prompts.Prompts, str]:
        data = self.data
        return prompt_files.of_set(
            data.entry, source=data.source, keys=data.keys, given=self.prompts_given
        )

    @property
    def prompts(self) -> prompts.Prompts:
        """The texts that stand for the classes."""
        return self._prompts[0]

    @property
    def prompts_origin(self) -> str:
        """Where the prompts come from."""
        return self._prompts[1]

    @property
    def prompt_warnings(self) -> list[str]:
        """What of the prompts changes how a figure is read."""
        groups = prompts.read_alike(self.prompts, tokenizer=self.subject.tokenizer)
        names = [names[0] for names in self.prompts.names]
        rivals = self.data.kind == "classification"
        told = suspicion.of_alike(groups, names=names, number=self.data.number, rivals=rivals)
        return [told] if told else []

    @functools.cached_property
    def classifier(self) -> classifier.Classifier:
        """The zero-shot classifier of the set's prompts, made once for these weights."""
        return classifier.of_prompts(
            self.prompts,
            embedder=self.subject.embedder,
            variables=self.subject.variables,
            tokenizer=self.subject.tokenizer,
            weights=self.subject.weights["id"],
            folder=self.classifiers,
            where=f"prompts of {self.data.entry.id}",
        )
