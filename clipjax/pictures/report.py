"""A run's `report/` folder: its pictures as PNG files, and `index.html` with all of them.

The lead process of the training program makes a `Report` and tells it what to draw. Whatever goes
wrong here is one line on the terminal and never the end of a run.
"""

import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from clipjax.common import files
from clipjax.pictures import canvas, history, html
from clipjax.pictures import table as tables
from clipjax.pictures.charts import confusion, curves, times
from clipjax.pictures.sheets import contact_sheet, samples

NO_MATPLOTLIB = (
    'report: no matplotlib, so the report goes without curves; pip install "clipjax[quickstart]"'
)
PROGRESS_SECONDS = 60.0


def _never_fatal(method: Callable[..., None]) -> Callable[..., None]:
    """The method, with any error made a line on the terminal."""

    @functools.wraps(method)
    def guarded(self: "Report", *args: Any, **kwargs: Any) -> None:
        what = method.__name__.strip("_")
        self.attempt(lambda: method(self, *args, **kwargs), what=what)

    return guarded


class Report:
    """The report of one run; on resuming, pictures that are in the folder stay until redrawn.

    Args:
      folder: WORKDIR/report, local or remote; made at the first picture.
      title: the run's name.
      log: path of `metrics.jsonl`, flushed; the local copy where the run is remote.
      chance: metric → what guessing scores.
      total_steps: of the whole run.
      notes: sentences below the table, without which the figures of training are misread.
      attribution: of the artwork in its images, shown with each picture that has some.
      say: prints a line, past the progress bar.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        title: str,
        log: str,
        chance: Mapping[str, float] | None = None,
        total_steps: int | None = None,
        notes: Sequence[str] = (),
        attribution: str = "",
        say: Callable[[str], None] = print,
    ) -> None:
        self.folder = epath.Path(folder)
        self.title = title
        self.log = log
        self.chance = dict(chance or {})
        self.total_steps = total_steps
        self.notes = list(notes)
        self.attribution = attribution
        self.say = say
        self.told: set[str] = set()
        self.pictures: dict[str, html.Picture] = {}  # by file name
        self.drawn_at = time.monotonic()
        self._read_old()

    @property
    def index(self) -> str:
        """Path of the page."""
        return os.fspath(self.folder / "index.html")

    def attempt(self, make: Callable[[], Any], *, what: str) -> Any:
        """`make()`, or None and one line on the terminal if it fails; `what` is in the line."""
        try:
            return make()
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            self.tell(f"report: no {what} ({type(error).__name__}: {reason})")
            return None

    def tell(self, line: str) -> None:
        """Say a line, the same one only once."""
        if line not in self.told:
            self.told.add(line)
            self.say(line)

    @_never_fatal
    def samples(
        self,
        images: Sequence[np.ndarray],
        *,
        captions: Sequence[str],
        tokens: Sequence[Sequence[str]],
        truncated: Sequence[bool] | None = None,
        first: int = 0,
    ) -> None:
        """Draw training examples from position `first` on; arguments as `samples.draw`."""
        title = "Training examples, as they enter the model"
        description = f"Examples {first:,} to {first + len(images) - 1:,} of the run, in order."
        drawn = samples.draw(
            images,
            captions=captions,
            tokens=tokens,
            truncated=truncated,
            title=title,
            subtitle="Each image after cropping, its caption, and the tokens that this becomes"
            " (start, end and padding left out).",
            attribution=self.attribution,
        )
        self._keep("samples.png", drawn, title=title, description=description)
        self._write_page(step=None, state="running")

    @_never_fatal
    def evaluation(
        self,
        step: int,
        *,
        sheets: Mapping[str, Mapping[str, Any]] | None = None,
        confusions: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Draw what evaluators found at a step, then the curves and the page.

        Args:
          step: finished training steps.
          sheets: evaluator's name → {"queries", "images", "scores", "right", "notes", …}, the
            arguments of `contact_sheet.draw` but for its title, subtitle and attribution.
          confusions: evaluator's name → {"counts", "names"}, as `confusion.draw` takes them.
        """
        for name, arguments in (sheets or {}).items():
            self._sheet(name, arguments, step=step)
        for name, arguments in (confusions or {}).items():
            self._confusion(name, arguments, step=step)
        self._curves(step)
        self._write_page(step=step, state="running")

    @_never_fatal
    def progress(self, step: int) -> None:
        """Draw the curves and the page anew if the last time was PROGRESS_SECONDS ago."""
        if time.monotonic() - self.drawn_at >= PROGRESS_SECONDS:
            self._curves(step)
            self._write_page(step=step, state="running")

    @_never_fatal
    def finish(self, step: int, *, complete: bool = True) -> None:
        """Draw for the last time; `complete` says whether the run reached its total."""
        self._curves(step)
        self._write_page(step=step, state="complete" if complete else "stopped", complete=complete)

    def table(self) -> str:
        """The latest measurements against guessing, lines for a terminal; "" where none are."""
        rows = self.attempt(lambda: self._rows(history.read(self.log)), what="table")
        notes = self.attempt(lambda: history.notes(self.log), what="notes")
        return tables.text(rows or [], notes=[*self.notes, *(notes or [])])

    def _rows(self, known: history.History) -> list[tables.Row]:
        return tables.rows(known, chance=self.chance)

    @_never_fatal
    def _read_old(self) -> None:
        if not self.folder.exists():
            return
        for file in sorted(self.folder.glob("*.png")):
            content = file.read_bytes()
            texts = canvas.png_texts(content)
            title, description = texts.get("Title", file.stem), texts.get("Description", "")
            self.pictures[file.name] = html.Picture(title, description, content)

    @_never_fatal
    def _sheet(self, name: str, arguments: Mapping[str, Any], *, step: int) -> None:
        title = f"{name}: images found by text, step {step:,}"
        description = (
            "Each row is a text, with the images whose embeddings are nearest to the text's."
        )
        drawn = contact_sheet.draw(**arguments, title=title, attribution=self.attribution)
        self._keep(f"{_file(name)}_sheet.png", drawn, title=title, description=description)

    @_never_fatal
    def _confusion(self, name: str, arguments: Mapping[str, Any], *, step: int) -> None:
        title = f"{name}: zero-shot classes, step {step:,}"
        drawn = confusion.draw(**arguments, title=title)
        description = "Each row is a true class: which classes its images were taken for."
        self._keep(
            f"{_file(name)}_confusion.png",
            drawn,
            title=title,
            description=description,
            artwork=False,
        )

    @_never_fatal
    def _curves(self, step: int) -> None:
        title = f"{self.title}, step {step:,}"
        if self.total_steps:
            title += f" of {self.total_steps:,}"
        try:
            drawn = curves.draw(history.read(self.log), title=title, chance=self.chance)
        except ImportError:
            return self.tell(NO_MATPLOTLIB)
        description = (
            "Dotted lines are what guessing would give. Throughput does not count the time spent on"
            " evaluations and checkpoints."
        )
        self._keep("curves.png", drawn, title=title, description=description, artwork=False)

    def _keep(
        self,
        file: str,
        drawn: Image.Image,
        *,
        title: str,
        description: str,
        artwork: bool = True,
    ) -> None:
        attribution = self.attribution if artwork else ""
        content = canvas.png(drawn, title=title, description=description, attribution=attribution)
        self._write(file, content)
        self.pictures[file] = html.Picture(title, description, content)

    def _write_page(self, *, step: int | None, state: str, complete: bool = False) -> None:
        known = history.read(self.log)
        steps, examples = known.get("examples_seen", ([0], [0.0]))
        step = steps[-1] if step is None else step
        total = self.total_steps
        of_total = f" of {total:,}" if total else ""
        page = html.page(
            title=self.title,
            facts=[
                f"step {step:,}{of_total}",
                f"{int(examples[-1]):,} examples seen",
                *times.described(*times.read(self.log)),
                time.strftime("%d %B %Y %H:%M UTC", time.gmtime()),
            ],
            rows=self._rows(known),
            notes=[*self.notes, *history.notes(self.log)],
            pictures=[self.pictures[file] for file in sorted(self.pictures, key=_place)],
            state=state,
            progress=step / total if total else None,
            complete=complete,
            attribution=self.attribution,
        )
        self._write("index.html", page.encode())
        self.drawn_at = time.monotonic()

    def _write(self, file: str, content: bytes) -> None:
        files.write(self.folder / file, content)


def _file(name: str) -> str:
    """An evaluator's name as part of a file's name."""
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)


def _place(file: str) -> tuple[int, str]:
    """Where on the page a file's picture stands."""
    ends = ("_sheet.png", "curves.png", "_confusion.png", "samples.png")
    return next((i for i, end in enumerate(ends) if file.endswith(end)), len(ends)), file
