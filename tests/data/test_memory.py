"""Memory of the loader stays flat however long it runs."""

import contextlib
import itertools
import os
import pathlib
import re

import numpy as np
import pytest

from clipjax.data import examples, loader, order
from clipjax.data.sources.tar import open_tars
from tests.data import fakes, tars

BATCH = 8


def resident(process):
    status = pathlib.Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1000


def children():
    own = f"/proc/{os.getpid()}/task/{os.getpid()}/children"
    return [int(number) for number in pathlib.Path(own).read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_memory_is_flat_over_20_000_batches(tmp_path, num_workers):
    for shard in range(20):
        tars.write(tmp_path / f"{shard}.tar", tars.pairs(50, start=50 * shard))
    source = open_tars(tmp_path)
    stream = examples.TrainExamples(
        source,
        tokenizer=fakes.FakeTokenizer(),
        image_size=16,
        seed=0,
        order=order.WindowOrder(source.lengths, window=3, seed=0),
    )
    batches = loader.train_batches(stream, start=0, batch_size=BATCH, num_workers=num_workers)
    sampled = []
    with contextlib.closing(batches):
        for number, _ in enumerate(itertools.islice(batches, 20_000)):
            if number % 500 == 0:
                sampled.append(sum(resident(process) for process in (os.getpid(), *children())))
    late = np.array(sampled[len(sampled) // 4 :])
    slope = np.polyfit(np.arange(len(late)) * 500, late, 1)[0]  # MB a batch
    print(f"{slope * 20_000:.1f} MB in 20,000 batches, {late[0]:.0f} to {late[-1]:.0f}")
    assert slope * 20_000 < 20
