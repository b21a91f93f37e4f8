"""Where the time of a run went, over all its starts, from what each logged; drawn by `report`."""

import collections
import json
from collections.abc import Mapping

from etils import epath

DOWN = "down"  # from a start's last line to the next start: what was lost, and waiting to begin


def read(path: str) -> tuple[dict[str, float], int]:
    """({kind: seconds}, starts) of a `metrics.jsonl`; the kinds sum to the time from the first
    start to the last line. Lines without times, and torn ones, are left out."""
    file = epath.Path(path)
    total: collections.Counter[str] = collections.Counter()
    starts, last, ended = 0, {}, 0.0
    for text in file.read_text().splitlines() if file.exists() else ():
        if '"time/clock"' not in text:
            continue
        try:
            line = json.loads(text)
        except ValueError:
            continue
        seconds = {
            name.removeprefix("time/").removesuffix("_seconds"): value
            for name, value in line.items()
            if name.startswith("time/") and name.endswith("_seconds")
        }
        spent, clock = sum(seconds.values()), line["time/clock"]
        began = clock - spent
        if began >= ended or spent < sum(last.values()):
            starts += 1
            total.update(last)
            if ended:
                total[DOWN] += max(began - ended, 0.0)
        last, ended = seconds, clock
    total.update(last)
    return dict(total), starts


def described(spent: Mapping[str, float], starts: int) -> list[str]:
    """["time: train 81 %, compile 12 %, …"], [] where nothing is known; under 1 % left out."""
    total = sum(spent.values())
    parts = sorted(spent.items(), key=lambda item: -item[1])
    shares = [f"{kind.replace('_', ' ')} {v / total:.0%}" for kind, v in parts if v >= 0.01 * total]
    over = f" over {starts} starts" if starts > 1 else ""
    return [f"time{over}: {', '.join(shares)}"] if shares else []
