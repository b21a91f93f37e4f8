"""What `metrics.jsonl` says, as one series per metric, whatever the run went through."""

import json
import math
from collections.abc import Mapping
from typing import Any

from etils import epath

TRAIN_POINTS = 1500  # lines of training metrics that are read; more would not show in a picture

Series = tuple[list[int], list[float]]  # steps, values: as many, steps ascending
History = Mapping[str, Series]


def read(path: str) -> dict[str, Series]:
    """{metric: (steps, values)} of a local or remote file; {} where there is none yet.

    A step that was trained again (a killed run resumes from its last checkpoint) replaces what the
    first attempt logged from there on. Torn lines, and values that are no numbers, are left out;
    NaN and infinity stay. Of very many training lines an even selection and the last are read.
    """
    file = epath.Path(path)
    if not file.exists():
        return {}
    lines = file.read_bytes().splitlines()
    training = sum(b'"eval/' not in line for line in lines)
    stride = max(math.ceil(training / TRAIN_POINTS), 1)
    series: dict[str, Series] = {}
    seen = 0
    for line in lines:
        if b'"eval/' not in line:
            seen += 1
            if seen % stride and seen != training:
                continue
        _add(series, line)
    return series


def notes(path: str) -> list[str]:
    """What stands beside the newest figures of each evaluator: "<name>: …"; file as for `read`."""
    file = epath.Path(path)
    newest: dict[str, str] = {}
    for line in file.read_bytes().splitlines() if file.exists() else ():
        if b'"eval/' not in line:
            continue
        try:
            values: dict[str, Any] = json.loads(line)
        except ValueError:
            continue
        for name in {key.split("/")[1] for key in values if key.startswith("eval/")}:
            newest[name] = values.get(f"eval/{name}/notes", "")
            if failed := values.get(f"eval/{name}/failed"):
                newest[name] = f"FAILED at step {values.get('step', 0):,}: {failed}"
    return [f"{name}: {text}" for name, text in newest.items() if text]


def _add(series: dict[str, Series], line: bytes) -> None:
    try:
        values: dict[str, Any] = json.loads(line)
        step = int(values.pop("step"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return
    for name, value in values.items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        steps, numbers = series.setdefault(name, ([], []))
        while steps and steps[-1] >= step:
            steps.pop()
            numbers.pop()
        steps.append(step)
        numbers.append(float(value))
