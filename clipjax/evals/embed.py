"""Embeddings of a whole evaluation set, computed on all devices; every evaluator starts here."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from clipjax.data import eval_batches
from clipjax.models.clip import CLIP
from clipjax.parallel import sharding

Poll = Callable[[], bool]
Evaluator = Callable[..., dict[str, float]]  # evaluator(params, *, poll) → {metric: value}


class Preempted(Exception):
    """The run must save and leave: an evaluation is given up, and made after the restart."""


class Embedder:
    """A model's two encoders, compiled for a mesh and one batch size.

    Args:
      model: whose `encode_image` and `encode_text` are called.
      mesh: rows are split over its batch axes.
      batch_size: global; a set's last batch is padded to it and masked.
    """

    def __init__(self, model: CLIP, *, mesh: Mesh, batch_size: int) -> None:
        self.mesh = mesh
        self.batch_size = batch_size

        def encode(params: Any, rows: jax.Array, mask: jax.Array, *, method: str) -> Any:
            return model.apply({"params": params}, rows, method=method), mask

        whole = sharding.replicated(mesh)  # so that every process can read every row
        self._image = jax.jit(partial(encode, method="encode_image"), out_shardings=whole)
        self._text = jax.jit(partial(encode, method="encode_text"), out_shardings=whole)

    def images(self, params: Any, source: Any, *, image_size: int, poll: Poll) -> np.ndarray:
        """Image embeddings of all records, float32 [N, E], in order, on every process.

        Raises:
          Preempted: `poll`, asked once a batch, said to give up.
          DataError: an image cannot be read.
        """
        rows = sharding.local_rows(self.batch_size, mesh=self.mesh)
        batches = eval_batches.eval_image_batches(
            source, size=image_size, batch_size=self.batch_size, rows=rows
        )
        return self._embed(partial(self._image, params), batches, key="image", poll=poll)

    def texts(self, params: Any, texts: Sequence[str], *, tokenizer: Any, poll: Poll) -> np.ndarray:
        """Text embeddings, float32 [N, E], in order, on every process; Preempted as `images`."""
        rows = sharding.local_rows(self.batch_size, mesh=self.mesh)
        batches = eval_batches.eval_text_batches(
            texts, tokenizer=tokenizer, batch_size=self.batch_size, rows=rows
        )
        return self._embed(partial(self._text, params), batches, key="text", poll=poll)

    def _embed(
        self, encode: Any, batches: Iterator[dict[str, np.ndarray]], *, key: str, poll: Poll
    ) -> np.ndarray:
        parts = []
        for batch in batches:
            if poll():
                raise Preempted
            local = {"rows": batch[key], "mask": batch["mask"]}
            placed = sharding.to_device(local, mesh=self.mesh, batch_size=self.batch_size)
            parts.append(encode(placed["rows"], placed["mask"]))
        return np.concatenate([np.asarray(embeds)[np.asarray(mask)] for embeds, mask in parts])
