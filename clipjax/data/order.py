"""Which record stands at which position of the training stream: arithmetic, not state.

`clipjax.data.examples` asks for one position at a time. Hosts, workers and restarts never enter
the answer, so a run can be continued from any position on any number of machines. `GlobalOrder`
shuffles all records, for local disks; `WindowOrder` goes through a few shards at a time, for
object stores; `clipjax.data.mixture` interleaves several orders.
"""

import bisect
import functools
import hashlib
import itertools
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

SHUFFLE_ROUNDS = 4  # rounds of Grain's block cipher, as its own MapDataset.shuffle uses
NAMES = ("global", "window")


class Order(Protocol):
    """A function from positions to records. Can be pickled."""

    def __call__(self, position: int, /) -> int:
        """The index of the record at a position."""
        ...

    def substitute(self, position: int, /, *, rng: np.random.Generator) -> int:
        """A record to take where that one cannot be used, as near to hand."""
        ...

    def upcoming(self, position: int, /) -> Sequence[int]:
        """Records whose shards will be read from this position on, one for each shard."""
        ...

    def progress(self, position: int, /) -> dict[str, float]:
        """Metrics of how far the stream has come: examples and epochs."""
        ...


class GlobalOrder:
    """Every epoch visits `length` records once, all of them shuffled; see `record_index`."""

    def __init__(self, length: int, *, seed: int):
        self.length = length
        self.seed = seed

    def __call__(self, position: int) -> int:
        return record_index(position, seed=self.seed, length=self.length)

    def substitute(self, position: int, *, rng: np.random.Generator) -> int:
        """Any record."""
        del position
        return int(rng.integers(self.length))

    def upcoming(self, position: int) -> Sequence[int]:
        """None: the next records may lie anywhere."""
        del position
        return ()

    def progress(self, position: int) -> dict[str, float]:
        """{"epochs"}"""
        return {"epochs": position / self.length}


class WindowOrder:
    """Every epoch visits each record once, `window` shards at a time.

    Shards are permuted each epoch and cut into windows; the records of a window are permuted among
    each other. A reader needs the shards of one window, and of the next one soon.

    Args:
      lengths: records of each shard, in the source's order.
      window: shards read together.
      seed: decides both permutations.
    """

    def __init__(self, lengths: Sequence[int], *, window: int, seed: int):
        self.lengths = list(lengths)
        self.window = window
        self.seed = seed
        self.length = sum(self.lengths)
        self._start()

    def __getstate__(self) -> dict[str, Any]:
        return {"lengths": self.lengths, "window": self.window, "seed": self.seed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["lengths"], window=state["window"], seed=state["seed"])

    def _start(self) -> None:
        self._firsts = [0, *itertools.accumulate(self.lengths)]
        self._epoch = functools.lru_cache(2)(self._shards_of_epoch)

    def _shards_of_epoch(self, epoch: int) -> tuple[list[int], list[int]]:
        """Shards in their order, and the records up to the end of each window of them."""
        from grain.experimental import index_shuffle

        seed = hashed(f"{self.seed}/{epoch}/shards")
        last = len(self.lengths) - 1
        shards = [
            index_shuffle(number, max_index=last, seed=seed, rounds=SHUFFLE_ROUNDS)
            for number in range(last + 1)
        ]
        sizes = [
            sum(self.lengths[shard] for shard in shards[first : first + self.window])
            for first in range(0, len(shards), self.window)
        ]
        return shards, list(itertools.accumulate(sizes))

    def _window(self, position: int) -> tuple[int, int, int]:
        """Epoch, number of the window, and offset in it."""
        epoch, offset = divmod(position, self.length)
        _, ends = self._epoch(epoch)
        window = bisect.bisect_right(ends, offset)
        return epoch, window, offset - (ends[window - 1] if window else 0)

    def _shards(self, epoch: int, window: int) -> list[int]:
        shards, ends = self._epoch(epoch)
        if window == len(ends):
            (shards, _), window = self._epoch(epoch + 1), 0
        return shards[window * self.window : (window + 1) * self.window]

    def _record(self, shards: Sequence[int], offset: int) -> int:
        """The source's index of the record `offset` records into these shards."""
        for shard in shards:
            if offset < self.lengths[shard]:
                return self._firsts[shard] + offset
            offset -= self.lengths[shard]
        raise IndexError(f"{offset} records beyond the window")

    def __call__(self, position: int) -> int:
        from grain.experimental import index_shuffle

        epoch, window, offset = self._window(position)
        shards = self._shards(epoch, window)
        shuffled = index_shuffle(
            offset,
            max_index=sum(self.lengths[shard] for shard in shards) - 1,
            seed=hashed(f"{self.seed}/{epoch}/{window}"),
            rounds=SHUFFLE_ROUNDS,
        )
        return self._record(shards, shuffled)

    def substitute(self, position: int, *, rng: np.random.Generator) -> int:
        """Any record of the same window."""
        epoch, window, _ = self._window(position)
        shards = self._shards(epoch, window)
        return self._record(shards, int(rng.integers(sum(self.lengths[s] for s in shards))))

    def upcoming(self, position: int) -> list[int]:
        """The first record of each shard of this window and of the next."""
        epoch, window, _ = self._window(position)
        shards = self._shards(epoch, window) + self._shards(epoch, window + 1)
        return [self._firsts[shard] for shard in shards if self.lengths[shard]]

    def progress(self, position: int) -> dict[str, float]:
        """{"epochs"}"""
        return {"epochs": position / self.length}


def record_index(position: int, *, seed: int, length: int) -> int:
    """The record at a global position when every epoch visits `length` records once, shuffled.

    Args:
      position: rows of the training stream before this one, from 0, over all epochs and hosts.
      seed: the run's seed; another seed gives other permutations.
      length: records in the source.

    Returns:
      An index in [0, length). Epoch e is positions [e * length, (e + 1) * length) and has its own
      permutation. Memory does not grow with `length`: the permutation is computed, not stored.
    """
    from grain.experimental import index_shuffle  # imports jax, so only where it is needed

    epoch, offset = divmod(position, length)
    return index_shuffle(
        offset, max_index=length - 1, seed=hashed(f"{seed}/{epoch}"), rounds=SHUFFLE_ROUNDS
    )


def hashed(text: str) -> int:
    """A 32-bit seed; hashed, so that seed 0 epoch 1 is not seed 1 epoch 0."""
    digest = hashlib.blake2b(text.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")
