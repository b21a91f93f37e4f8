"""What the training loop tells: a line per logged step, the progress bar, and bounded run-ahead.

Metrics stay on the device until their step has finished; the host is at most `RUN_AHEAD` steps
ahead. A line holds its own step's values; only `perf/…` are means since the line before.
"""

import collections
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from tqdm import tqdm

from clipjax.common.exits import Diverged
from clipjax.parallel import distributed
from clipjax.training.logging.goodput import TRAINING, Goodput
from clipjax.training.logging.metric_writer import MetricWriter
from clipjax.training.logging.straggler import Stragglers
from clipjax.training.step import MAX_SKIPPED_IN_A_ROW

RUN_AHEAD = 2
WIDTH = 100  # columns of a line
UNBROKEN = "\u00a0"  # a space that no line is broken at


class Listener(Protocol):
    """Whoever wants to know how a run goes; the report, for one. None of these may end the run."""

    def step(self, step: int) -> None: ...

    def evaluation(self, step: int, *, details: Mapping[str, Any]) -> None: ...

    def end(self, step: int, *, complete: bool) -> None: ...


class StepLog:
    """The log of one process; all processes call it alike, only the lead writes.

    Args:
      writer: the lead process's, None elsewhere.
      start, total: steps, for the bar.
      batch_size: global, in pairs.
      log_every: steps between lines; the last step is always logged.
      progress: step → metrics that follow from it: examples seen, epochs, shares of a mixture.
      peak_share: MFU of one example a second on all devices together; None if not known.
      clock: where the time of the run goes.
      listeners: are told of each step and evaluation, and of the end.
    """

    def __init__(
        self,
        writer: MetricWriter | None,
        *,
        start: int,
        total: int,
        batch_size: int,
        log_every: int,
        progress: Callable[[int], dict[str, float]] = lambda step: {},
        peak_share: float | None = None,
        clock: Goodput | None = None,
        listeners: Sequence[Listener] = (),
    ) -> None:
        self.writer = writer
        self.total = total
        self.batch_size = batch_size
        self.log_every = log_every
        self.progress = progress
        self.peak_share = peak_share
        self.clock = clock or Goodput()
        self.listeners = listeners
        self.pending: collections.deque[tuple[int, dict[str, Any], dict[str, int]]] = (
            collections.deque()
        )
        self.bar = tqdm(
            total=total,
            initial=start,
            unit="step",
            disable=writer is None,
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 30.0,  # a log file gets a line now and then
            smoothing=0.05,
        )
        self.stragglers = Stragglers()
        self.noted: dict[str, str] = {}  # of each evaluator, what was said last
        self._begin_window()

    def _begin_window(self) -> None:
        self.window_start, self.window_steps = self.clock.read(), 0

    def pause(self, kind: str) -> None:
        """Finish what is pending; from now on time is of this kind, "eval" or "save"."""
        self.flush()
        self.clock.enter(kind)

    def step(self, step: int, metrics: dict[str, Any], *, counts: dict[str, int]) -> None:
        """Note a step just dispatched; blocks until the one `RUN_AHEAD` before it has finished.

        Args:
          step: finished steps, this one included.
          metrics: device scalars.
          counts: host counters of this process's rows, {"bad": …}; logged as fractions, and
            those that are parts of another ("bad/…") only where there are any.
        """
        self.pending.append((step, metrics, counts))
        while len(self.pending) > RUN_AHEAD:
            self._finish_oldest()
        for listener in self.listeners:
            listener.step(step)

    def flush(self) -> None:
        """Wait for all dispatched steps and write their lines, where they belong."""
        while self.pending:
            self._finish_oldest()
        if self.writer is not None:
            self.writer.sync()

    def _finish_oldest(self) -> None:
        step, metrics, counts = self.pending.popleft()
        jax.block_until_ready(metrics["train/loss"])
        self.window_steps += 1
        if step % self.log_every == 0 or step == self.total:
            self._write_line(step, jax.device_get(metrics), counts)
        _check_finite(step, metrics)  # of every step: a save that follows must not keep a dead run
        self.bar.update(1)

    def _write_line(self, step: int, metrics: dict[str, Any], counts: dict[str, int]) -> None:
        now = self.clock.read()
        spent = {kind: now[kind] - self.window_start[kind] for kind in (*TRAINING, "data_wait")}
        milliseconds = round(1e3 * spent["data_wait"])
        gathered = distributed.gather(np.array([*counts.values(), milliseconds], np.int64))
        counted, waited = gathered[:, :-1].sum(axis=0), gathered[:, -1] / 1e3
        seconds = max(sum(spent.values()), 1e-9)
        rate = self.window_steps * self.batch_size / seconds
        wait = spent["data_wait"] / seconds
        progress = self.progress(step)
        line = {
            "examples_seen": progress.pop("examples_seen", step * self.batch_size),
            **{name: np.asarray(value).item() for name, value in metrics.items()},
            **{
                f"data/{name}_fraction": int(rows) / self.batch_size
                for name, rows in zip(counts, counted, strict=True)
                if rows or "/" not in name
            },
            **progress,
            "perf/examples_per_second": rate,
            "perf/examples_per_second_per_chip": rate / jax.device_count(),
            "perf/step_seconds": seconds / max(self.window_steps, 1),
            "perf/data_wait_fraction": wait,
            **self.clock.metrics(),
        }
        straggler = self.stragglers.note(waited, steps=self.window_steps, seconds=seconds)
        if len(waited) > 1:
            line["perf/straggler"] = straggler
        if self.peak_share is not None:
            line["perf/mfu"] = rate * self.peak_share
        self._begin_window()
        if self.writer is not None:
            self.writer.write(step, line)
            self.bar.set_postfix_str(
                f"loss {line['train/loss']:.3f}, {rate:,.0f} examples/s, {wait:.0%} data wait",
                refresh=False,
            )

    def evaluation(
        self, step: int, metrics: dict[str, Any], *, notes: Mapping[str, Sequence[str]]
    ) -> None:
        """Lines with the evaluations of a step; texts among them go to the file only.

        `notes` by evaluator go to the file as "eval/<name>/notes", and get a line where they are
        others than the last time.
        """
        if self.writer is not None:
            texts = {name: "; ".join(each) for name, each in notes.items() if each}
            kept = {f"eval/{name}/notes": text for name, text in texts.items()}
            self._write(step, metrics | kept)
            for line in evaluation_lines(step, metrics):
                self.say(line)
            for name, text in texts.items():
                if self.noted.get(name) != text:
                    self.say(f"note: {name}: {text}")
            self.noted |= texts

    def failed_evaluation(self, step: int, name: str, message: str, *, traceback: str = "") -> None:
        """A line where the figures of an evaluator would be, with the traceback in the file only.

        It goes to the file as "eval/<name>/failed" and "eval/<name>/traceback".
        """
        if self.writer is not None:
            kept = {f"eval/{name}/failed": message}
            kept |= {f"eval/{name}/traceback": traceback} if traceback else {}
            self._write(step, kept)
            more = "; its traceback is in metrics.jsonl" if traceback else ""
            self.say(f"step {step:,}, {name}: FAILED, training goes on: {message}{more}")

    def evaluated(self, step: int, *, details: Mapping[str, Any]) -> None:
        """All evaluators of a step are done; `details` by name is what pictures are made of."""
        for listener in self.listeners:
            listener.evaluation(step, details=details)

    def _write(self, step: int, metrics: Mapping[str, Any]) -> None:
        assert self.writer is not None
        seen = self.progress(step).get("examples_seen", step * self.batch_size)
        self.writer.write(step, {"examples_seen": seen, **metrics})

    def say(self, text: str) -> None:
        """A line above the bar, from the lead process."""
        if self.writer is not None:
            self.bar.write(text)

    def close(self) -> None:
        """Write what is pending and let the bar stand."""
        self.flush()
        self.bar.close()

    def end(self, step: int, *, complete: bool) -> None:
        """Tell the listeners that this was the last step of this start."""
        for listener in self.listeners:
            listener.end(step, complete=complete)


def evaluation_lines(step: int, metrics: Mapping[str, Any]) -> list[str]:
    """What a terminal shows of a step's evaluations: lines of WIDTH, a new one for each evaluator.

    Args:
      step: that was evaluated.
      metrics: "eval/<name>/<metric>" → value.
    """
    values: dict[str, list[str]] = {}
    for key, value in metrics.items():
        if not isinstance(value, str):
            _, name, metric = key.split("/", 2)
            values.setdefault(name, []).append(f"{metric}{UNBROKEN}{value:.4g}")
    lines = []
    for name, each in values.items():
        text = f"step {step:,}, {name}: {', '.join(each)}"
        lines += textwrap.wrap(text, WIDTH, subsequent_indent="    ", break_long_words=False)
    return [line.replace(UNBROKEN, " ") for line in lines]


def _check_finite(step: int, metrics: dict[str, Any]) -> None:
    """Raise Diverged, on all processes alike, if the last steps were too often not finite."""
    in_a_row = int(metrics.get("train/skipped_in_a_row", 0))
    if in_a_row >= MAX_SKIPPED_IN_A_ROW:
        raise Diverged(
            f"step {step:,}: loss or gradient was not finite in the last {in_a_row} steps, at least"
            f" {MAX_SKIPPED_IN_A_ROW} in a row; parameters are as before them, checkpoints too. Try"
            " a lower --config.optimizer.learning_rate or --config.optimizer.clip_norm=1 with"
            " --allow_config_change"
        )
