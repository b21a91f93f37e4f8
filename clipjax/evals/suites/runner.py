"""Runs a suite on a model: opens all sets, measures what is not measured yet, writes each result.

    FOLDER/SET.json                   the record (`results`)
    FOLDER/arrays/SET.PROTOCOL.npz    label, choice and rank of each image
    FOLDER/classifiers/               zero-shot classifiers by weights and prompts
    FOLDER/summary.{json,csv,md}

`evaluate` calls it on every process; process 0 reads and writes, the others follow. A set's fault
is written into its record, and the others are measured all the same.
"""

import functools
import math
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from etils import epath
from tqdm import tqdm

from clipjax.common import files
from clipjax.common.counts import counted
from clipjax.evals import suites
from clipjax.evals.evaluated import EvaluatedModel, EvaluatedSet
from clipjax.evals.protocols import registry
from clipjax.evals.suites import faults, results, summary, tasks
from clipjax.evals.suites.faults import Fault
from clipjax.evals.suites.results import Measurement, Record
from clipjax.evals.suites.tasks import Task
from clipjax.parallel import distributed

Say = Callable[[str], None]


def run_suite(
    model: EvaluatedModel,
    suite: suites.Suite,
    *,
    folder: str,
    options: suites.Options,
    say: Say = print,
) -> list[Record]:
    """Measure, write and return the records of all sets, in the suite's order.

    Args:
      model: that is measured.
      suite: what to run.
      folder: of results, made if it is not there.
      options: how.
      say: prints a line.
    """
    output = epath.Path(folder)
    lead = distributed.is_lead()
    listed = tasks.prepare(model, suite, folder=output, options=options)
    if lead:
        _overview(suite, listed, say=say)
    due = [task for task in listed if task.todo]
    images = sum(task.evaluated.data.n for task in due if task.evaluated)
    with Progress(images, sets=len(due), show=lead) as progress:
        for task in listed:
            evaluated = task.evaluated
            if evaluated and task.todo:
                progress.begin(task.record.name, images=evaluated.data.n)
                evaluated.progress = functools.partial(progress.batch, model.embedder.batch_size)
                _measure(task, evaluated, folder=output, say=progress.say if lead else _silent)
                progress.end()
                if task.record.status == "measured" and not task.record.measurements:
                    task.record.status = "missing"
            if evaluated:
                evaluated.forget()  # memory of one set at a time
    records = [task.record for task in listed]
    if lead:
        for record in records:
            file = output / f"{record.set}.json"
            if record.status == "failed" or (record.status == "missing" and not file.exists()):
                results.write(record, file)
        summary.write(records, folder=output, suite=suite, model=model, compare=options.compare)
    return records


def _measure(task: Task, evaluated: EvaluatedSet, *, folder: Any, say: Say) -> None:
    """Measure and write after each protocol; a fault becomes the record's."""
    record = task.record
    for protocol in task.todo:
        began = time.perf_counter()
        known = registry.get(protocol)
        measurement = _attempt(known, evaluated, where=f"{folder}/{record.set}/{protocol}")
        if isinstance(measurement, Fault):
            fault = measurement
            how = "left out" if fault.missing else "FAILED"
            tasks.note(record, fault, protocol=protocol)
            kept = f"; its traceback is in {record.set}.json" if fault.traceback else ""
            say(f"{record.name}, {protocol}: {how}: {fault.message}{kept}")
            continue
        measurement.settings = task.settings[protocol]
        measurement.key = results.key_of(measurement.settings)
        measurement.seconds = round(time.perf_counter() - began, 2)
        measurement.time = results.now()
        _warn(measurement, evaluated, prompted=known.prompted)
        record.measurements[protocol] = measurement
        if distributed.is_lead():
            _write_arrays(measurement, folder / "arrays" / f"{record.set}.{protocol}.npz")
            results.write(record, folder / f"{record.set}.json")
        metric, main, seconds = measurement.metric, measurement.main, measurement.seconds
        say(f"{record.name}, {protocol}: {metric} {main}, {seconds:.1f} s")
        for warning in measurement.warnings:
            say(f"  {warning}")


def _attempt(
    protocol: registry.Protocol, evaluated: EvaluatedSet, *, where: str
) -> Measurement | Fault:
    """The measurement, or the fault of any process; what needs no devices is checked first."""
    checked = faults.attempt_on_all(lambda: protocol.check(evaluated), where=f"{where}/check")
    if isinstance(checked, Fault):
        return checked
    return faults.attempt_on_all(lambda: protocol.measure(evaluated), where=where, alone=True)


def _warn(measurement: Measurement, evaluated: EvaluatedSet, *, prompted: bool) -> None:
    """Add what of the set and its prompts changes how the figures are read."""
    main = measurement.main
    if not math.isfinite(main.value):
        measurement.warnings.append(f"{measurement.metric} is no number: nothing counts for it")
    measurement.warnings += evaluated.data.source.notes
    if prompted:
        measurement.warnings += evaluated.prompt_warnings


def _write_arrays(measurement: Measurement, file: Any) -> None:
    """Write the rows of all images beside the record, and forget them."""
    if measurement.arrays:
        files.write_arrays(file, measurement.arrays, compressed=True)
        measurement.arrays = {}


def _overview(suite: suites.Suite, listed: Sequence[Task], *, say: Say) -> None:
    records = [task.record for task in listed]
    missing = [record for record in records if record.status == "missing"]
    failed = [record for record in records if record.status == "failed"]
    due = sum(bool(task.todo) for task in listed)
    done = sum(not task.todo and bool(task.record.measurements) for task in listed)
    say(
        f"{suite.name}: {counted(len(records), 'set')}: {due} to measure,"
        f" {done} measured before, {len(missing)} missing, {len(failed)} that cannot be used"
    )
    for record in (task.record for task in listed if task.evaluated):
        number = record.data["classes"]
        classes = f" of {counted(number, 'class', 'classes')}" if number else ""
        images, where = counted(record.data["n"], "image"), record.data["where"]
        say(f"  {record.name}: {images}{classes}, {where}")
    for record in failed:
        say(f"  {record.name}: {record.message}")
    for record in missing:
        say(f"  {record.name} is missing: {record.message}")


def _silent(line: str) -> None:
    del line


class Progress:
    """A bar over the images of all sets, with the time that is left, on one line.

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
