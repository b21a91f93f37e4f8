"""Embeddings of a whole evaluation set, computed on all devices; every evaluator starts here."""

import collections
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from clipjax.common.exits import CleanExit, DataError
from clipjax.data import eval_batches
from clipjax.models.clip import CLIP
from clipjax.parallel import distributed, sharding

THREADS = 4  # that read and decode images
AHEAD = 2  # batches on the devices besides the one that is being read back
LINE = 500  # bytes of an error that the other processes hear
Poll = Callable[[], bool]


def go_on() -> bool:
    """The poll of an evaluation that nothing interrupts."""
    return False


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
        self._width = model.config.embed_dim
        self._resize = model.config.image_resize

        def encode(variables: Any, rows: jax.Array, mask: jax.Array, *, method: str) -> Any:
            return model.apply(variables, rows, method=method), mask

        whole = sharding.replicated(mesh)  # so that every process can read every row
        self._image = jax.jit(partial(encode, method="encode_image"), out_shardings=whole)
        self._features = jax.jit(partial(encode, method="image_features"), out_shardings=whole)
        self._text = jax.jit(partial(encode, method="encode_text"), out_shardings=whole)
        self._scalars = jax.jit(lambda params: model.apply({"params": params}, method="scalars"))

    def images(self, variables: Any, source: Any, *, image_size: int, poll: Poll) -> np.ndarray:
        """Image embeddings of all records, float32 [N, E], in order, on every process.

        Raises:
          Preempted: `poll`, asked once a batch, said to give up.
          DataError: an image cannot be read.
        """
        held = _Held(self.loader(source, image_size=image_size), image_size=image_size)
        return held.settled(self.pixels(variables, held, length=len(source), poll=poll))

    def features(self, variables: Any, source: Any, *, image_size: int, poll: Poll) -> np.ndarray:
        """Image features before the projection, not normalised: float32 [N, D]; see `images`."""
        held = _Held(self.loader(source, image_size=image_size), image_size=image_size)
        batches = self._pixel_batches(held, length=len(source))
        embed = partial(self._features, variables)
        return held.settled(self._embed(embed, batches, key="image", poll=poll))

    def scalars(self, variables: Any) -> dict[str, float]:
        """The model's logit_scale, the multiplier of cosines, and logit_bias where it has one."""
        scalars: Any = self._scalars(variables["params"])
        return {name: float(np.asarray(value)) for name, value in scalars.items()}

    def loader(self, source: Any, *, image_size: int) -> Callable[[int], dict[str, np.ndarray]]:
        """What gives one record's pixels as the model wants them, for `pixels`."""
        settings = {"size": image_size, "resize": self._resize}
        return partial(eval_batches.load_eval_image, source=source, **settings)

    def pixels(
        self,
        variables: Any,
        load: Callable[[int], dict[str, np.ndarray]],
        *,
        length: int,
        poll: Poll,
    ) -> np.ndarray:
        """Embed load(0) … load(length - 1), {"image": uint8 [S, S, 3]}, in threads."""
        batches = self._pixel_batches(load, length=length)
        return self._embed(partial(self._image, variables), batches, key="image", poll=poll)

    def _pixel_batches(
        self, load: Callable[[int], dict[str, np.ndarray]], *, length: int
    ) -> Iterator[dict[str, np.ndarray]]:
        return eval_batches.padded_batches(
            load,
            length=length,
            batch_size=self.batch_size,
            rows=sharding.local_rows(self.batch_size, mesh=self.mesh),
            num_threads=THREADS,
        )

    def texts(
        self, variables: Any, texts: Sequence[str], *, tokenizer: Any, poll: Poll
    ) -> np.ndarray:
        """Text embeddings, float32 [N, E], in order, on every process; Preempted as `images`."""
        rows = sharding.local_rows(self.batch_size, mesh=self.mesh)
        batches = eval_batches.eval_text_batches(
            texts, tokenizer=tokenizer, batch_size=self.batch_size, rows=rows
        )
        return self._embed(partial(self._text, variables), batches, key="text", poll=poll)

    def _embed(
        self, encode: Any, batches: Iterator[dict[str, np.ndarray]], *, key: str, poll: Poll
    ) -> np.ndarray:
        parts: list[np.ndarray] = []
        running: collections.deque[tuple[jax.Array, jax.Array]] = collections.deque()

        def finish() -> None:
            embeds, mask = running.popleft()
            parts.append(np.asarray(embeds)[np.asarray(mask)])

        for batch in batches:
            if poll():
                raise Preempted
            local = {"rows": batch[key], "mask": batch["mask"]}
            placed = sharding.to_device(local, mesh=self.mesh, batch_size=self.batch_size)
            running.append(encode(placed["rows"], placed["mask"]))
            if len(running) > AHEAD:  # results leave the devices while the next ones are made
                finish()
        while running:
            finish()
        if not parts:
            return np.zeros((0, self._width), np.float32)
        return np.concatenate(parts)


class _Held:
    """Loads images; of several processes, one that cannot read an image says so after the last.

    Until then it goes on with black ones: the others wait for it in every batch.
    """

    def __init__(self, load: Callable[[int], dict[str, np.ndarray]], *, image_size: int) -> None:
        self.load, self.image_size = load, image_size
        self.error: Exception | None = None

    def __call__(self, index: int) -> dict[str, np.ndarray]:
        try:
            return self.load(index)
        except Exception as error:
            if jax.process_count() == 1:
                raise
            self.error = self.error or error
            return {"image": np.zeros((self.image_size, self.image_size, 3), np.uint8)}

    def settled(self, embeddings: np.ndarray) -> np.ndarray:
        """The embeddings; the error of any process, on all of them."""
        if jax.process_count() == 1:
            return embeddings
        reason = "" if self.error is None else _in_one_line(self.error)
        line = np.zeros(LINE, np.uint8)
        line[: len(reason.encode()[:LINE])] = np.frombuffer(reason.encode()[:LINE], np.uint8)
        lines = distributed.gather(line)
        if self.error is not None:
            raise self.error
        if len(failed := np.flatnonzero(lines.any(axis=1))):
            reason = bytes(lines[failed[0]]).rstrip(b"\0").decode(errors="replace")
            raise DataError(f"process {failed[0]}: {reason}")
        return embeddings


def _in_one_line(error: Exception) -> str:
    """An error's message, and its type where the message does not stand alone."""
    kind = "" if isinstance(error, CleanExit) else f"{type(error).__name__}: "
    return f"{kind}{' '.join(str(error).split())}"
