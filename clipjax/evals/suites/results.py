"""What was measured on one set, as a JSON file: RESULTS/SUITE/SET.json.

`evaluate` writes a file after each protocol, so that a killed evaluation goes on where it was: a
measurement whose `key` is unchanged is not made again. The key is a hash of all that determines
the figures: weights, data, prompts, preprocessing, precision and the protocol's settings.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import re
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

import clipjax
from clipjax.common import files
from clipjax.evals.metrics import Estimate

VERSION = 1  # raise it when the same key would give other figures
NEWEST = "_newest"
STEP_NAME = re.compile(rf"step_(\d+)({NEWEST})?")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "pillow")


@dataclasses.dataclass
class Measurement:
    """The figures of one protocol (zero_shot, linear_probe, …) on one set.

    Attributes:
      metric: the name of the main figure.
      figures: metric → estimate; shares are 0 … 1.
      details: whatever pictures and people want besides, as plain JSON values.
      warnings: sentences that belong beside the figures.
      arrays: with one row for each image; not in the JSON, see `runner`.
      picture: what a run's report draws of it: a `classification.Result`, the arguments of a
        contact sheet, or None; not in the JSON.
      key: `key_of` what determines the figures.
      settings: what `key` is the hash of.
      seconds: it took.
      time: when it was made, UTC.
    """

    metric: str
    figures: dict[str, Estimate]
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    warnings: list[str] = dataclasses.field(default_factory=list)
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict, repr=False)
    picture: Any = dataclasses.field(default=None, repr=False)
    key: str = ""
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    time: str = ""

    @property
    def main(self) -> Estimate:
        return self.figures[self.metric]


@dataclasses.dataclass
class Record:
    """All that is known of a model on one set.

    Attributes:
      set, name: the entry's id in `suites` and its name for people.
      status: "measured", "missing" (no data) or "failed".
      message: why it is missing or failed, and what to do.
      traceback: where it failed by an error that nobody expects.
      data: source, split, n, expected_n and after whose protocol, fingerprint, classes and their
        hash.
      weights: id (a digest of all arrays), path, model, step.
      preprocessing: how images became pixels.
      precision: dtypes of the towers and of what follows.
      measurements: by protocol.
      versions: of clipjax and the packages below it.
    """

    set: str
    name: str
    status: str = "measured"
    message: str = ""
    traceback: str = ""
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    weights: dict[str, Any] = dataclasses.field(default_factory=dict)
    preprocessing: dict[str, Any] = dataclasses.field(default_factory=dict)
    precision: dict[str, Any] = dataclasses.field(default_factory=dict)
    measurements: dict[str, Measurement] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)


def key_of(settings: Mapping[str, Any]) -> str:
    """Sixteen hex digits that change with any of the settings, which are plain JSON values."""
    content = json.dumps([VERSION, settings], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """clipjax and the packages whose versions may move a figure."""
    return {"clipjax": clipjax.__version__} | {
        name: importlib.metadata.version(name) for name in PACKAGES
    }


def now() -> str:
    """UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def write(record: Record, file: Any) -> None:
    """Write the record whole or not at all, local or remote."""
    files.write_json(file, to_json(record), indent=1)


def read(file: Any) -> Record | None:
    """The record in a file; None where there is none, or it is no record of this version's form."""
    try:
        return parse(epath.Path(file).read_bytes())
    except OSError:
        return None


def parse(content: bytes) -> Record | None:
    """The record that JSON describes; None if it describes none, so that it is measured anew."""
    try:
        fields = json.loads(content)
        fields["measurements"] = {
            protocol: Measurement(**{**each, "figures": _estimates(each["figures"])})
            for protocol, each in fields["measurements"].items()
        }
        return Record(**fields)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def step_name(step: int, *, average: bool) -> str:
    """What results of a run's checkpoint are called: "step_300", of the newest weights in place of
    their average "step_300_newest"."""
    return f"step_{step}" + ("" if average else NEWEST)


def parse_step_name(name: str) -> tuple[int, bool] | None:
    """(step, average) of `step_name`; None for another name."""
    match = STEP_NAME.fullmatch(name)
    return (int(match[1]), not match[2]) if match else None


def to_json(record: Record) -> dict[str, Any]:
    """Plain values; a figure is {"value", "low", "high", "n"}, and what is no number is null."""
    fields = vars(record) | {"measurements": {}}
    for protocol, measurement in record.measurements.items():
        kept = dataclasses.asdict(dataclasses.replace(measurement, arrays={}, picture=None))
        del kept["arrays"], kept["picture"]
        fields["measurements"][protocol] = kept
    return plain(fields)


def plain(value: Any) -> Any:
    """A value as strict JSON holds it: NumPy's as Python's, and null for what is no number."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if hasattr(value, "tolist"):  # arrays and NumPy's numbers
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _estimates(figures: Mapping[str, Any]) -> dict[str, Estimate]:
    return {
        name: Estimate(**{**each, "value": math.nan if each["value"] is None else each["value"]})
        for name, each in figures.items()
    }
