"""The evaluators of a run between its steps: which are due, and a fault of one, which ends nothing.

`train` opens them before the first step, where a mistake in their data ends the start. An evaluator
that has measured in this run is trusted from then on: where its data cannot be opened at a later
start, or it fails, training goes on and the fault stands in its place in `metrics.jsonl`.
"""

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

from clipjax.common.exits import DataError, RemoteError
from clipjax.evals.embed import Poll
from clipjax.evals.evaluator import Evaluator
from clipjax.evals.suites import faults
from clipjax.evals.suites.faults import Fault
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
            evaluator = _attempt(functools.partial(open_one, name))
            if fault := faults.agree(faults.only(evaluator), where=f"{where}/{name}/open"):
                self._unopened[name] = fault
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
            values = _attempt(functools.partial(self.opened[name], variables, poll=poll))
            where = f"{self.where}/{name}/{step}"
            values = faults.agree(faults.only(values), where=where, alone=True) or values
        if isinstance(values, Fault):
            log.failed_evaluation(step, name, values.message, traceback=values.traceback)
            return {}
        metrics = {f"eval/{name}/{key}": value for key, value in values.items()}
        log.evaluation(step, metrics, notes={name: self.opened[name].notes})
        return metrics


def _attempt(call: Callable[[], Any]) -> Any:
    """`faults.attempt`, to which data that do not come are a fault too: training can wait."""
    return faults.attempt(functools.partial(_data, call))


def _data(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except RemoteError as error:
        raise DataError(str(error)) from error
