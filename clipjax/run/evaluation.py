"""The evaluators of a run, between its steps and on a checkpoint; a fault of one ends nothing.

`train` opens them before the first step, where a mistake in their data ends the start. An evaluator
that has measured in this run is trusted from then on: where its data cannot be opened at a later
start, or it fails, training goes on and the fault stands in its place in `metrics.jsonl`.
"""

import functools
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax

import clipjax
from clipjax.build import data as build_data
from clipjax.common import files
from clipjax.common.counts import counted
from clipjax.common.exits import ConfigError, DataError, RemoteError
from clipjax.evals.embed import Poll
from clipjax.evals.evaluator import Evaluator
from clipjax.evals.suites import faults
from clipjax.evals.suites.faults import Fault
from clipjax.evals.suites.results import step_name
from clipjax.parallel import distributed
from clipjax.parallel.mesh import batch_shards
from clipjax.pictures import table
from clipjax.run.queries import output_file
from clipjax.training.logging.step_log import StepLog


class Evaluations:
    """The evaluators of one stage of a run; all processes call it alike.

    Args:
      open_one: name → Evaluator.
      every: steps between the measurements of each evaluator by name.
      start: the step that training begins at.
      total: steps of the run; all evaluators measure after the last one.
      trusted: names of those that have measured in this run, or were open before in this start.
      evaluated: names of those that have measured at `start`.
      where: names the stage, for messages between processes.

    Attributes:
      opened: the evaluators by name, without those that could not be opened.

    Raises:
      CleanExit: one that is not trusted cannot be opened.
    """

    def __init__(
        self,
        open_one: Callable[[str], Evaluator],
        *,
        every: Mapping[str, int],
        start: int,
        total: int,
        trusted: Collection[str],
        evaluated: Collection[str],
        where: str,
    ) -> None:
        self.every, self.start, self.total = every, start, total
        self.evaluated, self.where = evaluated, where
        self.opened: dict[str, Evaluator] = {}
        self._unopened: dict[str, Fault] = {}
        for name in every:
            if name not in trusted:
                self.opened[name] = open_one(name)
                continue
            evaluator = _attempt(functools.partial(open_one, name), where=f"{where}/{name}/open")
            if isinstance(evaluator, Fault):
                self._unopened[name] = evaluator
            else:
                self.opened[name] = evaluator

    @property
    def warnings(self) -> list[str]:
        """A sentence for each evaluator that could not be opened."""
        return [
            f"config.evals.{name} measures nothing in this start: {fault.message}"
            for name, fault in self._unopened.items()
        ]

    def measure_due(self, step: int, variables: Any, *, poll: Poll, log: StepLog) -> dict[str, Any]:
        """{"eval/<name>/<metric>": value} of the evaluators that measure after so many steps.

        They are logged; an evaluator that fails on any process has none.

        Raises:
          Preempted: `poll` said to give up.
        """
        due = self._due(step)
        if not due:
            return {}
        log.pause("eval")
        metrics: dict[str, Any] = {}
        for name in due:
            metrics |= self._measure(name, step, variables, poll=poll, log=log)
        details = {name: evaluator.details for name, evaluator in self.opened.items()}
        log.evaluated(step, details=details)
        return metrics

    def _due(self, step: int) -> list[str]:
        return [
            name
            for name, every in self.every.items()
            if step > 0
            and (step % every == 0 or step == self.total)
            and not (step == self.start and name in self.evaluated)
        ]

    def _measure(
        self, name: str, step: int, variables: Any, *, poll: Poll, log: StepLog
    ) -> dict[str, Any]:
        values: Any = self._unopened.get(name)
        if values is None:
            measure = functools.partial(self.opened[name], variables, poll=poll)
            values = _attempt(measure, where=f"{self.where}/{name}/{step}", alone=True)
        if isinstance(values, Fault):
            log.failed_evaluation(step, name, values.message, traceback=values.traceback)
            return {}
        metrics = {f"eval/{name}/{key}": value for key, value in values.items()}
        log.evaluation(step, metrics, notes={name: self.opened[name].notes})
        return metrics


def _attempt(call: Callable[[], Any], *, where: str, alone: bool = False) -> Any:
    """`faults.attempt_on_all`, to which data that do not come are a fault: training can wait."""
    return faults.attempt_on_all(functools.partial(_data, call), where=where, alone=alone)


def _data(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except RemoteError as error:
        raise DataError(str(error)) from error


def evaluate_checkpoint(model: Any, *, workdir: str, average: bool = True) -> dict[str, Any]:
    """Run all evaluators on what `api.load` gives, print the table, and write
    WORKDIR/evaluations/step_N.json; returns what it holds.

    `average` says which of a run's weights the model has, and the file is named so
    (`results.step_name`).

    Raises:
      ConfigError: there are none.
      DataError: one could not measure its data; the file has the others.
    """
    config = model.config
    if not config.evals:
        raise ConfigError(
            f"{workdir}: its config has no evaluators (config.evals); ask --query or --image, or"
            " start the training again with some: they may be added at any time"
        )
    _fit_batches(config, mesh=model.mesh)
    lead = distributed.is_lead()
    say = functools.partial(print, flush=True) if lead else lambda line: None
    evaluations: dict[str, Any] = {}
    failed: dict[str, str] = {}
    rows = []
    for name in config.evals:
        began = time.perf_counter()
        outcome = _evaluate(model, name, where=f"{workdir}/{name}")
        if isinstance(outcome, Fault):
            failed[name] = outcome.traceback or outcome.message
            say(f"{name}: FAILED: {outcome.message}")
            continue
        evaluator, metrics = outcome
        seconds = round(time.perf_counter() - began, 2)
        say(f"{name}: {counted(evaluator.n, 'image')}, {seconds:.1f} s")
        evaluations[name] = {
            "kind": config.evals[name].kind,
            "n": evaluator.n,
            "metrics": metrics,
            "notes": list(evaluator.notes),
            "chance": evaluator.chance,
            "seconds": seconds,
        }
        rows += [
            table.Row(f"eval/{name}/{key}", value, model.step, evaluator.chance.get(key))
            for key, value in metrics.items()
            if not isinstance(value, str)
        ]
    result = {
        "step": model.step,
        "examples_seen": model.run["examples_seen"],
        "evaluations": evaluations,
        "failed": failed,
        "devices": f"{model.mesh.size} × {jax.devices()[0].device_kind}",
        "clipjax": clipjax.__version__,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    notes = [f"weights: {note}" for note in model.run.get("notes", ())]
    notes += [f"{name}: {note}" for name, each in evaluations.items() for note in each["notes"]]
    say(f"\n{table.text(rows, notes=notes)}\n")
    if lead:  # last: what cannot be kept is shown all the same
        file = output_file(workdir, f"{step_name(model.step, average=average)}.json")
        files.write_json(file, result)
        say(file)
    if failed:
        raise DataError(
            f"{len(failed)} of {counted(len(config.evals), 'evaluator')} failed:"
            f" {', '.join(failed)}"
        )
    return result


def _evaluate(model: Any, name: str, *, where: str) -> tuple[Evaluator, dict[str, Any]] | Fault:
    """An evaluator of the run's config and its metrics; the fault of any process."""
    open_one = functools.partial(
        build_data.evaluator, model.config, name, mesh=model.mesh, tokenizer=model.tokenizer
    )
    evaluator: Any = faults.attempt_on_all(open_one, where=f"{where}/open")
    if isinstance(evaluator, Fault):
        return evaluator
    trained_on = model.run["data_fingerprint"].partition("&")[0]  # all, of a selection
    if evaluator.source.whole.fingerprint == trained_on:
        build_data.note_training_data(evaluator, len(evaluator.source))
    measure = functools.partial(evaluator, model.variables, poll=lambda: False)
    metrics: Any = faults.attempt_on_all(measure, where=where, alone=True)
    return metrics if isinstance(metrics, Fault) else (evaluator, metrics)


def _fit_batches(config: Any, *, mesh: Any) -> None:
    """Make the batches of training divide over the devices that are here."""
    shards = batch_shards(mesh)
    config.batch_size += -config.batch_size % shards
    for settings in config.evals.values():
        settings.batch_size += -settings.batch_size % shards
