"""A model on an evaluation set, as the protocols see it: what they share is computed once."""

import dataclasses
import functools
import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from etils import epath
from jax.sharding import Mesh

from clipjax.common import files
from clipjax.evals import class_names, classification, embed, notes
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
      tokenizer: its own.
      image_size: side of its images, in pixels.
      mesh: all devices.
      variables: parameters and BatchNorm averages, on the devices; those of an evaluator come with
        each call.
      logit_scale: multiplier of cosines, for probabilities.
      name: "ViT-B/32" where it has a released shape.
      weights: {"id", "path", …}, for the records.
      preprocessing: how images become pixels, for the records.
      precision: dtypes of the towers and of what follows, for the records.
      training_loss: of a run, `protocols.loss.TrainingLoss`.
    """

    embedder: Any
    tokenizer: Any
    image_size: int
    mesh: Mesh
    variables: Any = None
    logit_scale: float = 100.0
    name: str = ""
    weights: dict[str, Any] = dataclasses.field(default_factory=dict)
    preprocessing: dict[str, Any] = dataclasses.field(default_factory=dict)
    precision: dict[str, str] = dataclasses.field(default_factory=dict)
    training_loss: Any = None

    def images(self, source: Any, *, poll: embed.Poll = embed.go_on) -> np.ndarray:
        """Image embeddings of a source, float32 [N, E]; see `embed.Embedder.images`."""
        return self.embedder.images(self.variables, source, image_size=self.image_size, poll=poll)

    def texts(self, texts: Sequence[str], *, poll: embed.Poll = embed.go_on) -> np.ndarray:
        """Text embeddings, float32 [N, E]; see `embed.Embedder.texts`."""
        return self.embedder.texts(self.variables, texts, tokenizer=self.tokenizer, poll=poll)


def _no_training_split() -> SetData:
    raise Missing("there is no training split")


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
      own_prompts: of an evaluator; None takes those of the set (`class_names.of_set`).
      prompts_file: the user's prompts for this set, a file or folder; "" is none.
      classifiers: folder in which zero-shot classifiers are kept; "" keeps none.
      folds_file: official folds or splits (`folds.read`); "" is none.
      folder: that the suite's sets lie in.
      poll: asked once a batch; embed.Preempted if it says to give up.
      progress: called once a batch of images.
    """

    model: EvaluatedModel
    data: SetData
    open_train: Callable[[], SetData] = _no_training_split
    open_validation: Callable[[], SetData | None] = lambda: None
    own_prompts: Prompts | None = None
    prompts_file: str = ""
    classifiers: str = ""
    folds_file: str = ""
    folder: str = ""
    poll: embed.Poll = embed.go_on
    progress: Callable[[], None] = lambda: None
    _features: dict[str, np.ndarray] = dataclasses.field(default_factory=dict, repr=False)

    @functools.cached_property
    def image_embed(self) -> np.ndarray:
        """Embeddings of the evaluation split, float32 [N, E]."""
        return self.images(self.data.source)

    def images(self, source: Any) -> np.ndarray:
        """Embeddings of other images, float32 [N, E]."""
        return self.model.images(source, poll=self._poll_images)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Text embeddings, float32 [N, E]."""
        return self.model.texts(texts, poll=self.poll)

    def features(self, data: SetData) -> np.ndarray:
        """Features of a split, before the projection, float32 [N, D]; kept for the next probe."""
        key = f"{data.split} {data.source.fingerprint}"
        if key not in self._features:
            model = self.model
            self._features[key] = model.embedder.features(
                model.variables,
                data.source,
                image_size=model.image_size,
                poll=self._poll_images,
            )
        return self._features[key]

    def _poll_images(self) -> bool:
        self.progress()
        return self.poll()

    def forget(self) -> None:
        """Free what depends on the weights, which is kept between the protocols of a set."""
        for name in ("image_embed", "classifier"):
            self.__dict__.pop(name, None)
        self._features.clear()

    @functools.cached_property
    def _prompts(self) -> tuple[Prompts, str]:
        if self.own_prompts:
            return self.own_prompts, ""
        data = self.data
        return class_names.of_set(
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
    def names(self) -> tuple[str, ...]:
        """A name of each class, for people."""
        return tuple(names[0] for names in self.prompts.names)

    @functools.cached_property
    def alike(self) -> list[tuple[int, ...]]:
        """Groups of classes whose prompts are the same to the model."""
        return read_alike(self.prompts, tokenizer=self.model.tokenizer)

    @property
    def prompt_warnings(self) -> list[str]:
        """What of the prompts changes how a figure is read."""
        rivals = self.data.kind == "classification"
        alike = notes.of_alike(self.alike, names=self.names, number=self.data.number, rivals=rivals)
        return [alike] if alike else []

    @functools.cached_property
    def captions_cut(self) -> np.ndarray:
        """bool [M], of the set's captions those of which the model reads only a part."""
        return self.model.tokenizer.encode(self.data.captions[0])[1]

    def check_prompts(self) -> None:
        """Raise ConfigError for a prompt that is longer than the model's context."""
        check_fit(self.prompts.texts()[0], tokenizer=self.model.tokenizer, where=self.data.where)

    @functools.cached_property
    def classifier(self) -> Classifier:
        """The zero-shot classifier of the set's prompts, made once for these weights."""
        return self.classifier_of(self.prompts)

    def classifier_of(self, asked: Prompts) -> Classifier:
        """The classifier of some prompts, out of the folder or made and kept there.

        All processes call it; process 0 reads and writes. Raises ConfigError for a prompt longer
        than the model's context.
        """
        if not self.classifiers:
            return self._embedded(asked)
        file = epath.Path(self.classifiers) / f"{self.model.weights['id']}_{asked.hash}.npz"
        kept = distributed.from_lead(_read(file) if distributed.is_lead() else b"")
        if kept:
            arrays = np.load(io.BytesIO(kept), allow_pickle=False)
            return Classifier(arrays["ensemble"], arrays["single"])
        where = f"prompts of {self.data.entry.id}"
        check_fit(asked.texts()[0], tokenizer=self.model.tokenizer, where=where)
        classifier = self._embedded(asked)
        if distributed.is_lead():
            files.write_arrays(file, vars(classifier))
        return classifier

    def _embedded(self, asked: Prompts) -> Classifier:
        texts, owners, singles = asked.texts()
        text_embed = self.texts(texts)
        ensemble = classification.class_weights(text_embed, owners=owners)
        return Classifier(ensemble, text_embed[singles])

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
        for path in (entry.path, folder) if entry.path else (folder,):
            if (file := epath.Path(path) / name).exists():
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
