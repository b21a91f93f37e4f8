"""The sets of a suite with their data open, and what is left to measure on each.

`runner` calls `prepare` on every process and then measures task by task. Nothing here needs the
devices, so that a process may fail alone: all are told before they go on.
"""

import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from clipjax.evals import suites
from clipjax.evals.evaluated import EvaluatedModel, EvaluatedSet
from clipjax.evals.protocols import registry
from clipjax.evals.suites import faults, results, set_data
from clipjax.evals.suites.faults import Fault
from clipjax.evals.suites.results import Record
from clipjax.parallel import distributed, messages

OPENED = "opened"  # what came of opening a set, beside what came of its protocols
Outcomes = dict[str, Any]  # of one set: OPENED and each protocol → a text that must agree, or Fault


@dataclasses.dataclass
class Task:
    """A set of a suite.

    Attributes:
      record: what is known of it.
      evaluated: the model on the set, its data open; None where they cannot be opened.
      todo: protocols that are to be measured.
      settings: protocol → what determines its figures.
    """

    record: Record
    evaluated: EvaluatedSet | None = None
    todo: tuple[str, ...] = ()
    settings: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)


def prepare(
    model: EvaluatedModel,
    suite: suites.Suite,
    *,
    folder: Any,
    options: suites.Options,
) -> list[Task]:
    """The suite's sets in its order; arguments as for `runner.run_suite`. All processes call it."""
    kept = [_kept(folder / f"{entry.id}.json") for entry in suite.entries]
    opened: list[Task | Fault] = []
    outcomes: list[Outcomes] = []
    for entry, before in zip(suite.entries, kept, strict=True):
        open_it = functools.partial(_open, model, entry, folder=folder, options=options)
        task = faults.attempt(open_it)
        names = dict.fromkeys((*_wanted(entry, suite, options), *before))
        opened.append(task)
        outcomes.append({OPENED: task} if isinstance(task, Fault) else _outcomes(task, names))
    agreed = _agreed(outcomes, key=f"clipjax/sets/{folder}")
    tasks = []
    for entry, before, task, outcome in zip(suite.entries, kept, opened, agreed, strict=True):
        if isinstance(task, Fault) or isinstance(outcome[OPENED], Fault):
            task = Task(Record(entry.id, entry.name))
            note(task.record, outcome[OPENED])
        else:
            wanted = _wanted(entry, suite, options)
            _choose(task, outcome, before=before, wanted=wanted, force=options.force)
            if not task.todo and not task.record.measurements and not options.only:
                _nothing_fits(task, wanted)
        tasks.append(task)
    return tasks


def _wanted(entry: suites.Entry, suite: suites.Suite, options: suites.Options) -> tuple[str, ...]:
    """The protocols that are asked for on a set."""
    return tuple(options.only) or entry.run or suite.run


def fitting(kind: str, names: Iterable[str]) -> tuple[str, ...]:
    """The protocols that fit sets of this kind; what is none is left out."""
    known = registry.FACTS
    return tuple(name for name in names if name in known and kind in known[name].sets)


def note(record: Record, fault: Fault, *, protocol: str = "") -> str:
    """Write a fault into the record; returns what it says."""
    message = f"{protocol}: {fault.message}" if protocol else fault.message
    if not fault.missing:
        record.status = "failed"
    elif not protocol:  # else the set may have others
        record.status = "missing"
    record.message = "; ".join(filter(None, (record.message, message)))
    record.traceback = record.traceback or fault.traceback
    return message


def _open(
    model: EvaluatedModel, entry: suites.Entry, *, folder: Any, options: suites.Options
) -> Task:
    common = {"data": options.data, "image_size": model.image_size}
    evaluated = EvaluatedSet(
        model,
        set_data.open_set(entry, **common),
        functools.partial(set_data.open_train, entry, **common),
        functools.partial(set_data.open_validation, entry, **common),
        prompts_file=_prompts_file(options.prompts, entry.id),
        classifiers=str(folder / "classifiers"),
        folder=options.data,
        folds_file=_folds(entry, options.data),
    )
    return Task(_new_record(evaluated), evaluated)


def _outcomes(task: Task, names: Iterable[str]) -> Outcomes:
    """The data's fingerprint, and the keys of the measurements."""
    evaluated = task.evaluated
    assert evaluated is not None
    outcomes: Outcomes = {OPENED: evaluated.data.source.fingerprint}
    for protocol in fitting(evaluated.data.kind, names):
        settings = faults.attempt(functools.partial(_settings, evaluated, protocol))
        if isinstance(settings, Fault):
            outcomes[protocol] = settings
        else:
            task.settings[protocol] = settings
            outcomes[protocol] = results.key_of(settings)
    return outcomes


def _agreed(own: Sequence[Outcomes], *, key: str) -> list[Outcomes]:
    """The outcomes of all processes: a fault of one is every one's, and so are other data."""

    def plain(value: Any) -> Any:
        return dataclasses.asdict(value) if isinstance(value, Fault) else value

    text = json.dumps([{name: plain(v) for name, v in each.items()} for each in own])
    everyone = [json.loads(text) for text in messages.exchange(text, key=key)]

    def same(index: int, name: str) -> Any:
        answers = [process[index].get(name) for process in everyone]
        failed = [answer if isinstance(answer, Mapping) else None for answer in answers]
        if fault := faults.first(failed):
            return fault
        other = next((k for k, answer in enumerate(answers) if answer != answers[0]), None)
        if other is None:
            return own[index][name]
        return Fault(
            f"process {other} sees other data than process 0; give every host the same --data"
        )

    return [{name: same(index, name) for name in (OPENED, *each)} for index, each in enumerate(own)]


def _choose(
    task: Task,
    outcome: Outcomes,
    *,
    before: Mapping[str, results.Measurement],
    wanted: Sequence[str],
    force: bool,
) -> None:
    """Take over what was measured of the same, and list what is to be measured."""
    record, todo = task.record, []
    for protocol, measurement in before.items():
        if measurement.key == outcome.get(protocol):
            record.measurements[protocol] = measurement
    for protocol in fitting(record.data["kind"], wanted):
        if isinstance(outcome[protocol], Fault):
            note(record, outcome[protocol], protocol=protocol)
        elif force or protocol not in record.measurements:
            todo.append(protocol)
    task.todo = tuple(todo)


def _nothing_fits(task: Task, wanted: Sequence[str]) -> None:
    if task.record.status != "measured":
        return
    kind, where = task.record.data["kind"], task.record.data["where"]
    fit = ", ".join(fitting(kind, registry.IN_SUITES))
    message = f"{where}: {', '.join(wanted)} is not for a {kind} set; these are: {fit}"
    note(task.record, Fault(message, missing=True))


def _folds(entry: suites.Entry, data: str) -> str:
    """The file of official folds, where the set has one and it is there."""
    file = epath.Path(data) / entry.id / entry.folds if data and entry.folds else None
    return str(file) if file and file.exists() else ""


def _prompts_file(prompts: str, name: str) -> str:
    """The user's prompts for a set."""
    if not prompts:
        return ""
    folder = epath.Path(prompts)
    if (folder / f"{name}.json").exists():
        return str(folder / f"{name}.json")
    return str(folder / name) if (folder / name).exists() else ""


def _kept(file: Any) -> dict[str, results.Measurement]:
    """The measurements in a file, as process 0 sees them; {} without one."""
    content = b""
    if distributed.is_lead() and (kept := results.read(file)):
        content = json.dumps(results.to_json(kept)).encode()
    record = results.parse(distributed.from_lead(content))
    return record.measurements if record else {}


def _new_record(evaluated: EvaluatedSet) -> Record:
    data, model = evaluated.data, evaluated.model
    classes = data.kind in ("classification", "multilabel")
    return Record(
        data.entry.id,
        data.entry.name,
        data={
            "where": data.where,
            "split": data.split,
            "kind": data.kind,
            "n": data.n,
            "expected_n": data.entry.sizes,
            "agrees_with": list(data.agrees),
            "fingerprint": data.source.fingerprint,
            "classes": len(data.keys) if classes else 0,
            "classes_hash": results.key_of({"": data.keys}) if classes else "",
            "note": data.entry.note,
        },
        weights=model.weights,
        preprocessing=model.preprocessing,
        precision=model.precision,
        versions=results.versions(),
    )


def _settings(evaluated: EvaluatedSet, protocol: str) -> dict[str, Any]:
    """What determines a protocol's figures; ConfigError where the set's metric is none of it."""
    data, model = evaluated.data, evaluated.model
    classes = len(data.keys) if data.kind in ("classification", "multilabel") else 0
    registry.check_fits(
        data.metric, protocol=protocol, kind=data.kind, classes=classes, where=data.where
    )
    return {
        "protocol": protocol,
        "weights": model.weights["id"],
        "data": [data.source.fingerprint, data.split, data.n],
        "preprocessing": model.preprocessing,
        "precision": model.precision,
        **registry.get(protocol).settings(evaluated),
    }
