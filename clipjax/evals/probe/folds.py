"""Data sets with several official splits: STL-10's ten folds, UCF101's three splits.

A probe is fitted to each and the results are averaged (paper, appendix A.1). Few-shot probes
average over their draws in the same way.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.common.exits import DataError
from clipjax.evals.metrics import LEVEL, Estimate

STL10_FOLDS, STL10_ROWS, STL10_TRAIN = 10, 1000, 5000
UCF101_SPLITS = (1, 2, 3)
Rows = np.ndarray  # int64, ascending


def mean_over(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of one metric over several training sets.

    The interval covers both what differs between training sets (Student's t over them) and the
    draw of the test images, as if they had them in common.
    """
    from scipy.special import stdtrit

    values = np.array([estimate.value for estimate in estimates])
    value = float(values.mean())
    n = max(estimate.n for estimate in estimates)
    if len(values) == 1 or not np.isfinite(value):
        return estimates[0]
    between = stdtrit(len(values) - 1, (1 + LEVEL) / 2) * values.std(ddof=1) / len(values) ** 0.5
    below = np.mean([estimate.value - estimate.low for estimate in estimates])
    above = np.mean([estimate.high - estimate.value for estimate in estimates])
    low, high = (math.hypot(between, side) for side in (below, above))
    return Estimate(value, max(value - low, 0.0), min(value + high, 1.0), n)


def read(file: Any, *, train: Sequence[str], test: Sequence[str]) -> list[tuple[Rows, Rows]]:
    """The official folds: the rows that each trains and is tested on, out of train + test.

    Args:
      file: STL-10's `fold_indices.txt`, whose folds are tested on the whole test split; or the
        folder of UCF101's lists, which part all videos anew.
      train: keys of the training split; of videos "CLASS/NAME", see `ucf101_split`.
      test: keys of the evaluation split.

    Raises:
      DataError: it cannot be read, or does not fit the data.
    """
    from etils import epath

    if epath.Path(file).is_dir():
        names = [key.split("/")[-1] for key in (*train, *test)]
        videos = {name.removesuffix(".avi"): index for index, name in enumerate(names)}
        return [ucf101_split(file, number, videos=videos) for number in UCF101_SPLITS]
    tested = np.arange(len(train), len(train) + len(test))
    return [(fold, tested) for fold in stl10_folds(file, rows=len(train))]


def stl10_folds(file: Any, *, rows: int = STL10_TRAIN) -> list[np.ndarray]:
    """The ten folds of STL-10's training split, int64 [1000] each.

    Args:
      file: `fold_indices.txt` of the data set's archive; TFDS leaves it out, and keeps the order of
        the records that it counts.
      rows: of the training split.

    Raises:
      DataError: it cannot be read, or is something else.
    """
    from etils import epath

    try:
        lines = epath.Path(file).read_text().split("\n")
        folds = [np.array(line.split(), np.int64) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read as fold_indices.txt ({error})") from None
    if len(folds) != STL10_FOLDS or any(len(fold) != STL10_ROWS for fold in folds):
        shape = f"{len(folds)} lines of {sorted({len(fold) for fold in folds})} numbers"
        raise DataError(f"{file}: STL-10 has {STL10_FOLDS} folds of {STL10_ROWS}, not {shape}")
    for number, fold in enumerate(folds):
        if len(np.unique(fold)) < STL10_ROWS or fold.min() < 0 or fold.max() >= rows:
            raise DataError(f"{file}: line {number + 1} repeats an index or leaves 0 … {rows - 1}")
    return folds


def ucf101_split(
    folder: Any, number: int, *, videos: Mapping[str, int]
) -> tuple[np.ndarray, np.ndarray]:
    """One of UCF101's three official splits: int64 indices of the training and test videos, both
    ascending.

    Args:
      folder: `ucfTrainTestlist`, with `trainlist01.txt`, `testlist01.txt`, ….
      number: 1, 2 or 3.
      videos: name → index, the name without ending: "v_ApplyEyeMakeup_g08_c01".

    Raises:
      DataError: a list cannot be read, names a video that is not there, or the two overlap.
    """
    from etils import epath

    parts = []
    for kind in ("train", "test"):
        file = epath.Path(folder) / f"{kind}list{number:02d}.txt"
        try:
            lines = file.read_text().split("\n")
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror or error})") from None
        names = [line.split()[0].split("/")[-1].rsplit(".", 1)[0] for line in lines if line.strip()]
        missing = [name for name in names if name not in videos]
        if missing or not names:
            raise DataError(
                f"{file}: {len(missing)} of its {len(names)} videos are not in the data, such as"
                f" {missing[:3]}"
            )
        parts.append(np.sort(np.array([videos[name] for name in names], np.int64)))
    both = np.intersect1d(*parts)
    if len(both):
        raise DataError(f"{folder}: split {number} trains on {len(both)} of its test videos")
    return parts[0], parts[1]
