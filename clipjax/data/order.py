"""Which record stands at which position of the training stream: arithmetic, not state.

`clipjax.data.examples` asks for one position at a time. Hosts, workers and restarts never enter
the answer, so a run can be continued from any position on any number of machines. Mixtures and
windowed orders are further functions of the same kind: position in, record out.
"""

import hashlib

SHUFFLE_ROUNDS = 4  # rounds of Grain's block cipher, as its own MapDataset.shuffle uses


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
        offset, max_index=length - 1, seed=epoch_seed(seed, epoch=epoch), rounds=SHUFFLE_ROUNDS
    )


def epoch_seed(seed: int, *, epoch: int) -> int:
    """A 32-bit seed for one epoch; hashed, so that seed 0 epoch 1 is not seed 1 epoch 0."""
    digest = hashlib.blake2b(f"{seed}/{epoch}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")
