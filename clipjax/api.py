"""`clipjax.load(path)`: a trained model for use as a library, from a checkpoint alone.

model = clipjax.load("runs/quickstart")            # or .../checkpoints/1000
model.encode_image(["cat.jpg"]), model.encode_text(["a cat"])
model.zero_shot(["cat.jpg"], ["a cat", "a dog"])   # probabilities
"""

import io
import os
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict
from PIL import Image

from clipjax.build import model as build_model
from clipjax.build import pretrained
from clipjax.common import lists
from clipjax.config import Config
from clipjax.data import captions, tokenizers
from clipjax.data import images as image_files
from clipjax.data.sources import remote
from clipjax.evals import classification, embed, prompts
from clipjax.parallel import mesh as meshes
from clipjax.parallel import sharding

AnyImage = Image.Image | np.ndarray | bytes | str | os.PathLike[str]
LARGEST_BATCH = 64  # images or texts a device at once
GIVE = "give paths, bytes, PIL images or uint8 arrays [H, W, 3]"


def load(
    path: str | os.PathLike[str],
    *,
    step: int | None = None,
    tokenizer: str = "",
    dtype: str = "",
    average: bool = True,
    model_config: str = "",
) -> "Model":
    """The model of a run, or of another program's files, on all devices.

    Args:
      path: `WORKDIR` or `WORKDIR/checkpoints/STEP`, local or gs://; or what `clipjax.convert`
        reads: a folder of open_clip's or transformers', also as hf://org/name@revision; a state
        dict as safetensors; big_vision's SigLIP as `.npz`.
      step: which checkpoint of a run; default the newest.
      tokenizer: CLIP's merges file, or SigLIP's vocabulary, where the model's folder brings none
        and no installed package does.
      dtype: to compute in, "float32" or "bfloat16"; default what a run was trained in, and float32
        for other programs' models.
      average: the moving average of the weights, of a run with `config.ema_decay`, which evaluated
        it, or of a file that holds both; False takes the newest weights.
      model_config: what the model is, where a state dict does not say it: open_clip's JSON of it, a
        run's or a transformers' folder's config.json, a name of the zoo ("ViT-B/32"), or
        "open_clip:NAME" of an installed open_clip.

    Raises:
      ConfigError: there is no such model, nothing says which it is, or no tokenizer goes with it.
      CheckpointError, DataError: it cannot be read.
    """
    variables, run = pretrained.read(
        path, step=step, tokenizer=tokenizer, average=average, model_config=model_config
    )
    for note in run.get("notes", ()):
        logging.warning("%s: %s", path, note)
    if dtype:
        run["config"]["model"]["dtype"] = dtype
    return Model(variables, run=run, mesh=meshes.make_mesh({"data": 1, "fsdp": -1, "tensor": 1}))


class Model:
    """A trained model; `load` makes it.

    Attributes:
      config: of the run, as it was when the checkpoint was saved.
      tokenizer: the run's own, out of the checkpoint.
      variables: parameters and BatchNorm's averages, on the devices of `mesh`.
      step: optimizer steps trained.
      logit_scale: multiplier of cosines.
    """

    def __init__(self, variables: Any, *, run: dict[str, Any], mesh: Mesh) -> None:
        self.run = run
        self.mesh = mesh
        self.config: Config = ConfigDict(run["config"])
        self.step = int(run["step"])
        self.logit_scale = float(np.exp(np.asarray(variables["params"]["logit_scale"])))
        self.tokenizer = pretrained.tokenizer_of(run)
        tokenizers.check_rules(
            self.tokenizer, stored=run.get("tokenizer_rules", {}), where="this model"
        )
        self.image_size = self.config.model.vision.image_size
        build_model.check_kernels(self.config, mesh=mesh)
        self.module = build_model.model(self.config, mesh=mesh)
        placements = sharding.shardings(variables, mesh=mesh)
        self.variables = jax.tree.map(sharding.put, jax.tree.map(np.asarray, variables), placements)
        self._embedders: dict[int, embed.Embedder] = {}

    def encode_image(self, images: AnyImage | Iterable[AnyImage]) -> np.ndarray:
        """Embeddings float32 [N, E], L2-normalised.

        Args:
          images: PIL images, paths of image files, bytes of JPEG, PNG or WebP, or uint8 arrays
            [H, W, 3] or [H, W]; an array [N, H, W, 3] of several; or one image alone, N = 1.
            Prepared as released (shorter side to the model's size, centre square; both sides where
            `config.model.image_resize` is "squash").

        Raises:
          ValueError: one is no image, or damaged; names it.
          OSError: a file cannot be read.
        """
        listed = several(images)
        if not listed:
            return np.zeros((0, self.config.model.embed_dim), np.float32)
        settings = {"size": self.image_size, "resize": self.module.config.image_resize}
        return self.embedder(len(listed)).pixels(
            self.variables,
            lambda index: {"image": prepare(listed[index], **settings)},
            length=len(listed),
            poll=_never,
        )

    def encode_text(self, texts: str | Iterable[str]) -> np.ndarray:
        """Embeddings float32 [N, E], L2-normalised, of texts cleaned as captions are for training
        (`captions.clean`); those longer than the context are cut. One text alone is N = 1.

        Raises:
          ValueError: one is no text.
        """
        cleaned = [captions.clean(text) for text in lists.texts(texts, what="texts")]
        if not cleaned:
            return np.zeros((0, self.config.model.embed_dim), np.float32)
        return self.embedder(len(cleaned)).texts(
            self.variables, cleaned, tokenizer=self.tokenizer, poll=_never
        )

    def zero_shot(
        self,
        images: AnyImage | Iterable[AnyImage],
        labels: str | Iterable[str],
        *,
        templates: str | Iterable[str] = prompts.GENERIC,
    ) -> np.ndarray:
        """Probabilities float32 [N, C] of each label for each image; rows add up to 1.

        Args:
          images: as `encode_image` takes them.
          labels: C names; one alone always gets 1.
          templates: texts with one {} for the name, averaged in embedding space; "{}" uses the
            labels as they are.

        Raises:
          ValueError: there are no labels, one is no text, or an image is none.
          ConfigError: a template is none, or a prompt is longer than the model's context.
        """
        names = lists.texts(labels, what="labels")
        if not names:
            raise ValueError("labels: give at least one")
        checked = prompts.check_templates(templates, where="templates")
        asked = prompts.Prompts(tuple(names), tuple((name,) for name in names), checked)
        texts, owners, _ = asked.texts()
        prompts.check_fit(texts, tokenizer=self.tokenizer, where="labels")
        weights = classification.class_weights(self.encode_text(texts), owners=owners)
        logits = self.logit_scale * (self.encode_image(images) @ weights.T).astype(np.float64)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)

    def embedder(self, rows: int) -> embed.Embedder:
        """An encoder for about so many rows at once; few sizes exist, so few are compiled."""
        shards = meshes.batch_shards(self.mesh)
        each = min(1 << (-(-rows // shards) - 1).bit_length(), LARGEST_BATCH)
        if each not in self._embedders:
            self._embedders[each] = embed.Embedder(
                self.module, mesh=self.mesh, batch_size=each * shards
            )
        return self._embedders[each]


def several(images: AnyImage | Iterable[AnyImage]) -> list[AnyImage]:
    """The images of one image, an array [N, H, W, 3], a sequence or a generator.

    Raises ValueError for anything else, such as a dictionary or a set, which have no order.
    """
    if isinstance(images, Image.Image | bytes | str | os.PathLike):
        return [images]
    if hasattr(images, "__array__"):
        array = np.asarray(images)
        return list(array) if array.ndim in (1, 4) else [array]
    if not lists.is_list(images) or isinstance(images, io.IOBase):
        raise ValueError(f"{type(images).__name__} is no image and no list of images; {GIVE}")
    return list(images)


def prepare(image: AnyImage, *, size: int, resize: str = "crop") -> np.ndarray:
    """uint8 [size, size, 3] of any kind of image, as `images.decode_eval` prepares it.

    Raises:
      ValueError: it is no image, or damaged; names the file.
      OSError: a file cannot be read.
    """
    if isinstance(image, bytes):
        return image_files.decode_eval(image, size=size, resize=resize)
    if isinstance(image, str | os.PathLike):
        data = remote.read(os.fspath(image))
        try:
            data = image_files.from_file(data)
            return image_files.decode_eval(data, size=size, resize=resize)
        except image_files.BadImage as error:
            raise ValueError(f"{os.fspath(image)}: {error}") from error
    if not isinstance(image, Image.Image):
        image = Image.fromarray(_pixels(image))
    return image_files.prepare_eval(image, size=size, resize=resize)


def _pixels(image: Any) -> np.ndarray:
    """uint8 [H, W] or [H, W, 3 or 4] of an image array; ValueError for anything else."""
    if not hasattr(image, "__array__"):
        raise ValueError(f"{type(image).__name__} is no image; {GIVE}")
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    shaped = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if not shaped or array.dtype != np.uint8 or not array.size:
        raise ValueError(
            f"an image array is uint8 [H, W, 3] or [H, W], not {array.dtype}{list(array.shape)}"
        )
    return array


def _never() -> bool:
    return False
