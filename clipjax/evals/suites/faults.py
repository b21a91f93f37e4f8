"""Faults of one set, which `runner` writes into its record and goes on after.

An error is a set's own unless it is about the machine: no memory, a device or a peer that failed,
files that may come at the next start. Those end the program, as Ctrl-C does.
"""

import dataclasses
import json
import traceback
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax

from clipjax.common.exits import CleanExit, ConfigError, DataError
from clipjax.evals.embed import Preempted
from clipjax.evals.suites.set_data import Missing
from clipjax.parallel import messages, shutdown

T = TypeVar("T")
PATIENCE_SECONDS = 60.0  # for the others' answers, where they may wait for this process


@dataclasses.dataclass(frozen=True)
class Fault:
    """Why a set, or a protocol on it, has no figures.

    Attributes:
      message: one line.
      traceback: of an error that nobody expects; "" where the message says what to do.
      missing: whether data are not there, which is no failure.
    """

    message: str
    traceback: str = ""
    missing: bool = False


def attempt(call: Callable[[], T]) -> T | Fault:
    """What `call` returns, or the fault that it raised; an error about the machine is raised."""
    try:
        return call()
    except Missing as error:
        return Fault(str(error), missing=True)
    except (ConfigError, DataError) as error:
        return Fault(str(error))
    except (CleanExit, Preempted, MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:
        if shutdown.STATUS.match(str(error)):
            raise
        line = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return Fault(line, traceback.format_exc())


def attempt_on_all(call: Callable[[], T], *, where: str, alone: bool = False) -> T | Fault:
    """`attempt` on all processes: what `call` returns, or the first one's fault; see `agree`."""
    outcome = attempt(call)
    fault = outcome if isinstance(outcome, Fault) else None
    return agree(fault, where=where, alone=alone) or outcome


def agree(fault: Fault | None, *, where: str, alone: bool = False) -> Fault | None:
    """The fault of the first process that has one, on all processes; None without any.

    All processes call it, so that all go on with the same set.

    Args:
      fault: this process's.
      where: the set and protocol, for errors; not the same twice.
      alone: whether a process may have failed while the others wait for it in a collective.

    Raises:
      DataError: that is so; it ends all of them (`shutdown.on_all_hosts`).
    """
    text = json.dumps(dataclasses.asdict(fault) if fault else None)
    patience = PATIENCE_SECONDS if alone and fault else None
    try:
        texts = messages.exchange(text, key=f"clipjax/faults/{where}", patience=patience)
    except TimeoutError:
        raise DataError(f"{where}: on one process only: {fault and fault.message}") from None
    return first([json.loads(text) for text in texts])


def first(answers: Sequence[Any]) -> Fault | None:
    """The first fault among the processes' answers, which are None or a fault's fields.

    What is missing on some only is no set that could be left out: it is wrong there.
    """
    index = next((index for index, answer in enumerate(answers) if answer), None)
    if index is None:
        return None
    fault = Fault(**answers[index])
    if None not in answers:
        return fault
    return dataclasses.replace(fault, message=f"process {index}: {fault.message}", missing=False)
