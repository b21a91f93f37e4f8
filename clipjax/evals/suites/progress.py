"""The progress of a suite: sets, images, and the time that is left, on one line."""

from types import TracebackType

from tqdm import tqdm


class Progress:
    """A bar over the images of all sets; `runner` moves it.

    Args:
      images: of all sets that are to be measured.
      sets: their number.
      show: False on processes that say nothing.
    """

    def __init__(self, images: int, *, sets: int, show: bool) -> None:
        self.sets = sets
        self.number = 0
        self._left = 0
        self.bar = tqdm(total=images, unit=" images", disable=not show or not sets, smoothing=0.05)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()

    def begin(self, name: str, *, images: int) -> None:
        """The next set."""
        self.number += 1
        self._left = images
        self.bar.set_description(f"set {self.number} of {self.sets}, {name}")

    def batch(self, images: int) -> None:
        """A batch of images is on its way."""
        step = min(images, self._left)
        self._left -= step
        self.bar.update(step)

    def end(self) -> None:
        """The set is done."""
        self.bar.update(self._left)
        self._left = 0

    def say(self, line: str) -> None:
        """Print a line past the bar."""
        self.bar.clear()
        print(line, flush=True)
        self.bar.refresh()
