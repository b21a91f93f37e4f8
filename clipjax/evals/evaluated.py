"""A model on an evaluation set, as the protocols see it: what they share is computed once."""

import dataclasses
import functools
import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from clipjax.common import files
from clipjax.evals import classification, embed, prompt_files, suspicion
from clipjax.evals.classification import Classifier
from clipjax.evals.prompts import Prompts, check_fit, read_alike
from clipjax.evals.suites.set_data import Missing, SetData
from clipjax.parallel import distributed
from clipjax.training.checkpoint.digest import digest


@dataclasses.dataclass(frozen=True)
class EvaluatedModel:
    """A model with its weights.

    Attributes:
      embedder: its encoders, compiled for all devices.
      variables: parameters and BatchNorm averages, on the devices.
      tokenizer: its own.
      image_size: side of its images, in pixels.
      mesh: all devices.
      name: "ViT-B/32" where it has a released shape.
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
    name: str
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

    def images(self, source: Any, *, poll: embed.Poll = embed.go_on) -> np.ndarray:
        """Image embeddings of a source, float32 [N, E]; see `embed.Embedder.images`."""
        return self.embedder.images(self.variables, source, image_size=self.image_size, poll=poll)

    def texts(self, texts: Sequence[str], *, poll: embed.Poll = embed.go_on) -> np.ndarray:
        """Text embeddings, float32 [N, E]; see `embed.Embedder.texts`."""
        return self.embedder.texts(self.variables, texts, tokenizer=self.tokenizer, poll=poll)


def weights_id(variables: Any) -> str:
    """Sixteen hex digits that change with any parameter; a collective."""
    return hashlib.sha256(json.dumps(digest(variables), sort_keys=True).encode()).hexdigest()[:16]


@dataclasses.dataclass
class EvaluatedSet:
    """A model on one set.

    Attributes:
      model: that is measured.
      data: the set's evaluation split.
      open_train: opens its training split.
      open_validation: opens its official validation split; gives None where there is none.
      prompts_file: the user's prompts for this set, a file or folder; "" is none.
      classifiers: folder in which zero-shot classifiers are kept.
      folds_file: official folds or splits (`folds.read`); "" is none.
      folder: that the suite's sets lie in.
      poll: called once a batch of images.
    """

    model: EvaluatedModel
    data: SetData
    open_train: Callable[[], SetData]
    open_validation: Callable[[], SetData | None] = lambda: None
    prompts_file: str = ""
    classifiers: str = ""
    folds_file: str = ""
    folder: str = ""
    poll: embed.Poll = embed.go_on
    _features: dict[str, np.ndarray] = dataclasses.field(default_factory=dict, repr=False)

    @functools.cached_property
    def image_embed(self) -> np.ndarray:
        """Embeddings of the evaluation split, float32 [N, E]."""
        return self.images(self.data.source)

    def images(self, source: Any) -> np.ndarray:
        """Embeddings of other images, float32 [N, E]."""
        return self.model.images(source, poll=self.poll)

    def features(self, data: SetData) -> np.ndarray:
        """Features of a split, before the projection, float32 [N, D]; kept for the next probe."""
        key = f"{data.split} {data.source.fingerprint}"
        if key not in self._features:
            model = self.model
            self._features[key] = model.embedder.features(
                model.variables, data.source, image_size=model.image_size, poll=self.poll
            )
        return self._features[key]

    def forget(self) -> None:
        """Free what is kept between the protocols of a set."""
        self.__dict__.pop("image_embed", None)
        self._features.clear()

    @functools.cached_property
    def _prompts(self) -> tuple[Prompts, str]:
        data = self.data
        return prompt_files.of_set(
            data.entry, source=data.source, keys=data.keys, own=self.prompts_file
        )

    @property
    def prompts(self) -> Prompts:
        """The texts that stand for the classes."""
        return self._prompts[0]

    @property
    def prompts_origin(self) -> str:
        """Where the prompts come from."""
        return self._prompts[1]

    @property
    def prompt_warnings(self) -> list[str]:
        """What of the prompts changes how a figure is read."""
        groups = read_alike(self.prompts, tokenizer=self.model.tokenizer)
        names = [names[0] for names in self.prompts.names]
        rivals = self.data.kind == "classification"
        told = suspicion.of_alike(groups, names=names, number=self.data.number, rivals=rivals)
        return [told] if told else []

    @functools.cached_property
    def classifier(self) -> Classifier:
        """The zero-shot classifier of the set's prompts, made once for these weights."""
        return self.classifier_of(self.prompts)

    def classifier_of(self, asked: Prompts) -> Classifier:
        """The classifier of some prompts, out of the folder or made and kept there.

        All processes call it; process 0 reads and writes. Raises ConfigError for a prompt longer
        than the model's context.
        """
        name = f"{self.model.weights['id']}_{asked.hash}.npz"
        file = epath.Path(self.classifiers) / name if self.classifiers else None
        kept = distributed.from_lead(_read(file) if file and distributed.is_lead() else b"")
        if kept:
            arrays = np.load(io.BytesIO(kept), allow_pickle=False)
            return Classifier(arrays["ensemble"], arrays["single"])
        texts, owners, singles = asked.texts()
        where = f"prompts of {self.data.entry.id}"
        check_fit(texts, tokenizer=self.model.tokenizer, where=where)
        text_embed = self.model.texts(texts)
        ensemble = classification.class_weights(text_embed, owners=owners)
        made = Classifier(ensemble, text_embed[singles])
        if file and distributed.is_lead():
            files.write_arrays(file, {"ensemble": made.ensemble, "single": made.single})
        return made

    def cosines(self) -> np.ndarray:
        """float32 [N, C], of the evaluation split with all prompts of each class."""
        return classification.cosines(
            self.image_embed, self.classifier.ensemble, mesh=self.model.mesh
        )

    @property
    def keys(self) -> list[str]:
        """The keys of all images."""
        return [self.data.source.key(index) for index in range(self.data.n)]

    def file(self, name: str) -> Any:
        """A file in the set's folder, or beside the images of a set with a path of its own; Missing
        where it is not there."""
        entry = self.data.entry
        folder = f"{self.folder}/{entry.id}"
        if entry.path:
            folder = os.path.dirname(entry.path.rstrip("/"))
        for place in (entry.path, folder) if entry.path else (folder,):
            if (file := epath.Path(place) / name).exists():
                return file
        raise Missing(f"{folder}/{name} is not there")


def _read(file: Any) -> bytes:
    """The file's bytes where it holds a classifier, else none."""
    try:
        content = file.read_bytes()
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return content if {"ensemble", "single"} <= set(arrays.files) else b""
    except Exception:  # damage shows in more ways than can be listed; it is made again
        return b""
