"""Times how long training stands still while a checkpoint is saved in the background.

    JAX_PLATFORMS=cpu python tests/bench/save_blocking.py --gib=1 --rounds=10

Saves a state of random float32 arrays as training does, digests included, and multiplies matrices
in between. Prints one JSON line: the median and 95th percentile of the seconds `save` blocks, the
median of those that the digests take and until it is on disk, and the ratio of the matrix products'
time during saves to without.
"""

import argparse
import json
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.training.checkpoint import digest
from clipjax.training.checkpoint.write import Checkpoints

ARRAYS = 16
SIDE = 1024


def products(matrix, *, seconds):
    """Seconds of each product, for a while."""
    times, ends = [], time.perf_counter() + seconds
    while time.perf_counter() < ends:
        began = time.perf_counter()
        jax.block_until_ready(matrix @ matrix)
        times.append(time.perf_counter() - began)
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    each = int(options.gib * 2**30 / 4 / ARRAYS)
    keys = jax.random.split(jax.random.key(0), ARRAYS)
    state = {str(i): jax.random.normal(key, (each,)) for i, key in enumerate(keys)}
    matrix = jnp.ones((SIDE, SIDE))
    products(matrix, seconds=1.0)
    alone = products(matrix, seconds=5.0)
    blocked, written, beside, digests = [], [], [], []
    digest.digest(state)  # compiles
    with tempfile.TemporaryDirectory() as workdir:
        checkpoints = Checkpoints(workdir, keep_last=1)
        for step in range(1, options.rounds + 1):
            began = time.perf_counter()
            checkpoints.save(step, state, run={})
            blocked.append(time.perf_counter() - began)
            beside += products(matrix, seconds=1.0)
            checkpoints.wait()
            written.append(time.perf_counter() - began)
            began = time.perf_counter()
            digest.digest(state)
            digests.append(time.perf_counter() - began)
        checkpoints.close()
    print(
        json.dumps(
            {
                "gib": options.gib,
                "rounds": options.rounds,
                "blocked_seconds_p50": round(float(np.percentile(blocked, 50)), 3),
                "blocked_seconds_p95": round(float(np.percentile(blocked, 95)), 3),
                "digest_seconds_p50": round(float(np.percentile(digests, 50)), 3),
                "on_disk_seconds_p50": round(float(np.percentile(written, 50)), 3),
                "step_ratio_beside_a_save": round(float(np.median(beside) / np.median(alone)), 3),
            }
        )
    )


if __name__ == "__main__":
    main()
