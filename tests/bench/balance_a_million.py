"""How fast `balance` goes through captions, and what memory it takes.

    PYTHONPATH=. python tests/bench/balance_a_million.py --picture OUT.png

Captions are twelve words by Zipf's law from a vocabulary twice as large as the query list, in one
JSON lines file; every second word is a query, and some queries are pairs of words.
"""

import argparse
import json
import os
import resource
import tempfile
import time

import numpy as np

from clipjax.curation import balance, matching
from clipjax.data.sources.table import open_tables


def write_captions(path, *, count, words):
    rng = np.random.default_rng(0)
    with open(path, "w") as file:
        for first in range(0, count, 10_000):
            ranks = np.exp(rng.random((min(10_000, count - first), 12)) * np.log(words)).astype(int)
            for row in ranks:
                text = " ".join(f"w{rank}" for rank in row)
                file.write(json.dumps({"image": "none.jpg", "text": text}) + "\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--captions", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=50_000)
    parser.add_argument("--per_query", type=int, default=0, help="0 is captions / queries")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--picture", default="")
    arguments = parser.parse_args()
    per_query = arguments.per_query or max(arguments.captions // arguments.queries, 1)
    singles = [f"w{2 * n + 1}" for n in range(arguments.queries * 9 // 10)]
    queries = singles + [f"w{n} w{n + 1}" for n in range(1, arguments.queries - len(singles) + 1)]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "captions.jsonl")
        write_captions(path, count=arguments.captions, words=2 * arguments.queries)
        source = open_tables(path)
        matcher = matching.Matcher(queries)
        texts = [source.caption(index) for index in range(20_000)]
        began = time.process_time()
        for text in texts:
            matcher([text])
        alone = len(texts) / (time.process_time() - began)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu, wall = time.process_time(), time.perf_counter()
        found = balance.balance(
            source,
            matcher=matcher,
            path=os.path.join(folder, "a.keep"),
            per_query=per_query,
            seed=0,
            num_workers=arguments.workers,
            show=False,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = time.process_time() - cpu + after.ru_utime - before.ru_utime
        cpu += after.ru_stime - before.ru_stime
        wall = time.perf_counter() - wall
    print(balance.describe(found, queries=queries, per_query=per_query))
    passes = 2 * arguments.captions
    print(f"matching alone            {alone:,.0f} captions a CPU-second")
    print(f"both passes               {passes / cpu:,.0f} captions a CPU-second, {wall:.0f} s")
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"peak memory               {own:,.0f} MiB, each worker {after.ru_maxrss / 1024:,.0f} MiB"
    )
    if arguments.picture:
        balance.plot(found, per_query=per_query).savefig(arguments.picture, dpi=120)


if __name__ == "__main__":
    main()
