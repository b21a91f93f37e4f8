"""Several sources as one training stream, by the sample and with exact weights.

Which source a position takes its record from, and which of that source's positions it is, are
arithmetic: after n examples each source has given n times its weight, to within the number of
sources, and every source keeps its own order and its own epochs. `clipjax.build.data` makes these
from `config.data.mixture`.
"""

import bisect
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from clipjax.data.order import Order
from clipjax.data.source import Source


class Joined(Source):
    """Sources one after the other as one source; records say which one they are from.

    Args:
      parts: sources by name, in order.
    """

    def __init__(self, parts: Mapping[str, Source]):
        self.parts = dict(parts)
        self._ends = list(itertools.accumulate(len(part) for part in self.parts.values()))
        self.name = "+".join(self.names)
        prints = [(name, part.fingerprint) for name, part in self.parts.items()]
        self.fingerprint = hashlib.sha256(repr(prints).encode()).hexdigest()

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def names(self) -> list[str]:
        return list(self.parts)

    @property
    def attribution(self) -> str:
        """Those of all parts."""
        each = (part.attribution for part in self.parts.values())
        return "; ".join(dict.fromkeys(filter(None, each)))

    @property
    def skipped(self) -> dict[str, int]:
        """What the parts left out, by part and reason."""
        return {
            f"{name}: {reason}": count
            for name, part in self.parts.items()
            for reason, count in part.skipped.items()
        }

    def _place(self, index: int) -> tuple[str, Source, int]:
        index = self.checked(index)
        number = bisect.bisect_right(self._ends, index)
        name = self.names[number]
        return name, self.parts[name], index - (self._ends[number - 1] if number else 0)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The part's record, with its name as "source"; raises as the part does."""
        name, part, own = self._place(index)
        return {**part[own], "source": name}

    def caption(self, index: int) -> Any:
        """The text of one record."""
        _, part, own = self._place(index)
        return part.caption(own)

    def key(self, index: int) -> str:
        """Part and key of one record."""
        name, part, own = self._place(index)
        return f"{name}: {part.key(own)}"

    def label(self, index: int) -> Any:
        """The class of one record, where its part has classes."""
        _, part, own = self._place(index)
        return part.label(own)

    def fields(self, index: int) -> Sequence[str]:
        """Names of what one record holds."""
        _, part, own = self._place(index)
        return part.fields(own)

    def prepare(self, indices: Sequence[int]) -> None:
        """Tell each part which of its records' shards will be wanted soon."""
        for index in indices:
            _, part, own = self._place(index)
            part.prepare([own])

    def spread(self, *, limit: int, drawn: bool = False) -> list[int]:
        """Records spread over the parts by their sizes; see `Source.spread`."""
        indices: list[int] = []
        first = 0
        for part in self.parts.values():
            share = -(-limit * len(part) // len(self))
            indices += [first + index for index in part.spread(limit=share, drawn=drawn)]
            first += len(part)
        return indices


class MixtureOrder:
    """Interleaves orders with exact weights; indices are those of `Joined`.

    Args:
      parts: name → (order, weight, length), in the order of the joined source; weights are
        positive and need not add up to 1.
    """

    def __init__(self, parts: Mapping[str, tuple[Order, float, int]]):
        self.names = list(parts)
        self.orders = [order for order, _, _ in parts.values()]
        self.lengths = [length for _, _, length in parts.values()]
        self._firsts = [0, *itertools.accumulate(self.lengths)]
        # As decimal fractions, so that 0.1 means a tenth and sums are exact.
        weights = [Fraction(str(weight)) for _, weight, _ in parts.values()]
        # Part k takes its share of the positions that the parts before it left.
        self._shares = [weight / sum(weights[number:]) for number, weight in enumerate(weights)]

    def part(self, position: int) -> tuple[int, int]:
        """The number of the part that a position takes its record from, and its position there."""
        for number, share in enumerate(self._shares):
            before = position * share.numerator // share.denominator
            if (position + 1) * share.numerator // share.denominator > before:
                return number, before
            position -= before
        raise AssertionError("the last part takes all that is left")

    def counts(self, position: int) -> list[int]:
        """How many of the first `position` examples each part gives."""
        counts = []
        for share in self._shares:
            counts.append(position * share.numerator // share.denominator)
            position -= counts[-1]
        return counts

    def __call__(self, position: int) -> int:
        number, own = self.part(position)
        return self._firsts[number] + self.orders[number](own)

    def substitute(self, position: int, *, rng: np.random.Generator) -> int:
        """A record of the same part."""
        number, own = self.part(position)
        return self._firsts[number] + self.orders[number].substitute(own, rng=rng)

    def upcoming(self, position: int) -> list[int]:
        """What each part will read next."""
        return [
            self._firsts[number] + index
            for number, own in enumerate(self.counts(position))
            for index in self.orders[number].upcoming(own)
        ]

    def progress(self, position: int) -> dict[str, float]:
        """{"NAME/examples", "NAME/epochs"} of each part; above 1 epoch its records repeat."""
        progress = {}
        for name, length, own in zip(self.names, self.lengths, self.counts(position), strict=True):
            progress |= {f"{name}/examples": own, f"{name}/epochs": own / length}
        return progress
