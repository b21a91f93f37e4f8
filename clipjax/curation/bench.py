"""How fast a data set can be read on this machine: `python -m clipjax.dataset bench`.

Times are CPU-seconds of one process, so that they hold on a machine others share; what a host
needs follows from them and from the rate that its accelerators take.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from clipjax.data import captions, images
from clipjax.data.examples import TrainExamples
from clipjax.data.loader import make_rows

SPARE = 1.3  # cores to have for each that the mean asks for: other work, slow moments


def stages(examples: TrainExamples, *, count: int) -> dict[str, float]:
    """Records per CPU-second of each stage, and of all together as training does them.

    Args:
      examples: the training stream.
      count: records to measure with, from position 0 on; unusable ones are left out.
    """
    source = examples.source
    records: list[dict[str, Any]] = []

    def read_all() -> None:
        for position in range(count):
            try:
                records.append(source.read(examples.order(position)))
            except ValueError:
                continue

    def decode_all() -> None:
        rng = np.random.default_rng(0)
        for record in usable:
            settings = {"size": examples.image_size, "resize": examples.image_resize}
            images.decode_train(record["image"], rng=rng, **settings)

    def tokenize_all() -> None:
        for record in usable:
            examples.tokenizer.encode([captions.usable(record["text"])[0]])

    rates = {"read": count / cpu_seconds(read_all)}
    usable = [record for record in records if is_usable(record)]
    if not usable:
        return rates
    rates["decode, crop, resize"] = len(usable) / cpu_seconds(decode_all)
    rates["clean, tokenize"] = len(usable) / cpu_seconds(tokenize_all)
    rows = np.arange(count)
    together = cpu_seconds(
        lambda: make_rows(0, examples=examples, start=0, batch_size=count, rows=rows)
    )
    rates["all, in batches"] = count / together
    return rates


def is_usable(record: dict[str, Any]) -> bool:
    """Whether training would take this record."""
    try:
        images.probe(record["image"])
        return bool(captions.usable(record["text"]))
    except images.BadImage:
        return False


def cpu_seconds(call: Callable[[], Any]) -> float:
    """CPU time of this process that a call takes."""
    began = time.process_time()
    call()
    return max(time.process_time() - began, 1e-9)


def cores_needed(rate: float, *, per_core: float, hosts: int = 1) -> int:
    """Cores for each of `hosts` to feed `rate` examples a second in all, with some to SPARE."""
    return int(np.ceil(SPARE * rate / hosts / per_core))


def describe(found: dict[str, float], *, rate: float, hosts: int) -> str:
    """The stages as lines, and what a slice that takes `rate` examples a second needs (0: not)."""
    lines = [f"{name:24} {value:10,.0f} a CPU-second" for name, value in found.items()]
    if rate and "all, in batches" in found:
        cores = cores_needed(rate, per_core=found["all, in batches"], hosts=hosts)
        lines.append(
            f"{rate:,.0f} examples a second on {hosts} host(s) need {cores:,} cores like this one"
            f" on each: config.data.num_workers={cores}"
        )
    return "\n".join(lines)
