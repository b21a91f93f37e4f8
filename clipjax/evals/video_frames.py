"""Videos as frames: action recognition on UCF101 and Kinetics-700 (paper, appendices A.1 and E.5).

Features of a linear probe, and table 11's zero-shot figures, take the middle frame; table 15's
zero-shot figures average the predictions over all frames. Frames are images, `VIDEO/FRAME.jpg`
inside a class's folder, in the order of their names; one image for a video is its middle frame.
"""

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from clipjax.data.source import Source, View


@dataclasses.dataclass(frozen=True)
class Videos:
    """Which frames belong together.

    Attributes:
      names: V videos, in the order of their first frames.
      owner: int32 [F], the video of each frame.
      middle: int64 [V], the middle frame of each video.
    """

    names: tuple[str, ...]
    owner: np.ndarray
    middle: np.ndarray


def videos(keys: Sequence[str], *, parts: int = 2) -> Videos:
    """The videos of some frames.

    Args:
      keys: F paths, "CLASS/VIDEO/FRAME.jpg" or "CLASS/VIDEO.jpg".
      parts: how many parts of a path name the video; 1 is "VIDEO/FRAME.jpg" or "VIDEO.jpg".
    """
    frames_of: dict[str, list[tuple[str, int]]] = {}
    for frame, key in enumerate(keys):
        named = os.path.splitext(key)[0].split(os.sep)[:parts]
        frames_of.setdefault(os.sep.join(named), []).append((key, frame))
    owner = np.zeros(len(keys), np.int32)
    middle = np.zeros(len(frames_of), np.int64)
    for number, frames in enumerate(frames_of.values()):
        ordered = [frame for _, frame in sorted(frames, key=lambda pair: _natural(pair[0]))]
        owner[ordered] = number
        middle[number] = ordered[len(ordered) // 2]
    return Videos(tuple(frames_of), owner, middle)


@dataclasses.dataclass(frozen=True)
class MiddleFrames(View):
    """Source of one image for each video, its middle frame; a key is the video's name.

    Attributes:
      source: of all frames.
      parts: of its keys, see `videos`.
    """

    source: Source
    parts: int

    @functools.cached_property
    def videos(self) -> Videos:
        keys = [self.source.key(index) for index in range(len(self.source))]
        return videos(keys, parts=self.parts)

    def __len__(self) -> int:
        return len(self.videos.names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**super().__getitem__(index), "key": self.key(index)}

    def key(self, index: int) -> str:
        return self.videos.names[index]

    @property
    def every(self) -> Source:
        return self.source

    @property
    def fingerprint(self) -> str:
        """Hash of all frames."""
        return f"{self.source.fingerprint}[middle]"

    def place(self, index: int) -> int:
        return int(self.videos.middle[self.checked(index)])


def mean_predictions(
    cosines: np.ndarray, *, owner: np.ndarray, count: int, logit_scale: float
) -> np.ndarray:
    """The mean of the frames' class probabilities, float64 [V, C].

    Args:
      cosines: float [F, C], of each frame with each class.
      owner: int [F], its video.
      count: V; every video has a frame.
      logit_scale: the multiplier of the cosines.

    A frame that is no number makes its video's prediction none.
    """
    logits = logit_scale * np.asarray(cosines, np.float64)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    total = np.zeros((count, cosines.shape[1]))
    np.add.at(total, owner, odds / odds.sum(axis=1, keepdims=True))
    return total / np.bincount(owner, minlength=count)[:, None]


def _natural(key: str) -> list[tuple[int, str]]:
    """So that frame 10 comes after frame 9."""
    parts, digits = [], ""
    for character in key + "\0":
        if character.isdigit():
            digits += character
            continue
        if digits:
            parts.append((int(digits), ""))
            digits = ""
        parts.append((-1, character))
    return parts
