"""A pool of captions without images, as large as a test wants it; for `balance`."""

import dataclasses

import numpy as np

from clipjax.data.source import Source


@dataclasses.dataclass(frozen=True)
class Pool(Source):
    """Captions of eight words drawn by Zipf's law from "w0", "w1", …"""

    length: int
    words: int = 1000
    name: str = "pool"
    fingerprint: str = "pool-1"

    def __len__(self):
        return self.length

    def key(self, index):
        return f"{index // 1000}/{index}"

    def caption(self, index):
        rng = np.random.Generator(np.random.Philox(key=[7, index]))
        # Inverse of the distribution of 1 / rank.
        ranks = np.exp(rng.random(8) * np.log(self.words)).astype(int) - 1
        return " ".join(f"w{rank}" for rank in ranks)
