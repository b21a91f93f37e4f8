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

from clipjax.evals import metric_names, suites
from clipjax.evals.protocols import registry as protocols
from clipjax.evals.suites import faults, results, set_data
from clipjax.evals.suites.evaluated_model import OnSet, Subject
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
      on: the set, its data open; None where they cannot be opened.
      todo: protocols that are to be measured.
      settings: protocol → what determines its figures.
    """

    record: Record
    on: OnSet | None = None
    todo: tuple[str, ...] = ()
    settings: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)


def prepare(
    subject: Subject,
    suite: suites.Suite,
    *,
    folder: Any,
    data: str,
    prompts: str,
    only: Sequence[str],
    force: bool,
) -> list[Task]:
    """The suite's sets in its order; arguments as for `runner.run_suite`. All processes call it."""
    kept = [_kept(folder / f"{entry.id}.json") for entry in suite.entries]
    opened: list[Task | Fault] = []
    outcomes: list[Outcomes] = []
    for entry, before in zip(suite.entries, kept, strict=True):
        open_it = functools.partial(
            _open, subject, entry, data=data, folder=folder, prompts=prompts
        )
        task = faults.attempt(open_it)
        names = dict.fromkeys((*(only or entry.run or suite.run), *before))
        opened.append(task)
        outcomes.append({OPENED: task} if isinstance(task, Fault) else _outcomes(task, names))
    agreed = _agreed(outcomes, key=f"clipjax/sets/{folder}")
    tasks = []
    for entry, before, task, outcome in zip(suite.entries, kept, opened, agreed, strict=True):
        if isinstance(task, Fault) or isinstance(outcome[OPENED], Fault):
            task = Task(Record(entry.id, entry.name))
            note(task.record, outcome[OPENED])
        else:
            wanted = only or entry.run or suite.run
            _choose(task, outcome, before=before, wanted=wanted, force=force)
            if not task.todo and not task.record.measurements and not only:
                _nothing_fits(task, wanted)
        tasks.append(task)
    return tasks


def fitting(on: OnSet, names: Iterable[str]) -> tuple[str, ...]:
    """Of the protocols, those that fit the set's kind."""
    return tuple(
        p
        for p in names
        if p in protocols.PROTOCOLS and on.data.kind in protocols.PROTOCOLS[p].kinds
    )


def note(record: Record, fault: Fault, *, protocol: str = "") -> str:
    """Write a fault into the record; returns what it says."""
    told = f"{protocol}: {fault.message}" if protocol else fault.message
    if not fault.missing:
        record.status = "failed"
    elif not protocol:  # else the set may have others
        record.status = "missing"
    record.message = "; ".join(filter(None, (record.message, told)))
    record.traceback = record.traceback or fault.traceback
    return told


def _open(subject: Subject, entry: suites.Entry, *, data: str, folder: Any, prompts: str) -> Task:
    place = {"data": data, "image_size": subject.image_size}
    on = OnSet(
        subject,
        set_data.open_set(entry, **place),
        functools.partial(set_data.open_train, entry, **place),
        functools.partial(set_data.open_validation, entry, **place),
        prompts_given=_given(prompts, entry.id),
        classifiers=str(folder / "classifiers"),
        folder=data,
        folds_file=_folds(entry, data),
    )
    return Task(_new_record(on), on)


def _outcomes(task: Task, names: Iterable[str]) -> Outcomes:
    """The data's fingerprint, and the keys of the measurements."""
    on = task.on
    assert on is not None
    found: Outcomes = {OPENED: on.data.source.fingerprint}
    for protocol in fitting(on, names):
        settings = faults.attempt(functools.partial(_settings, on, protocol))
        if isinstance(settings, Fault):
            found[protocol] = settings
        else:
            task.settings[protocol] = settings
            found[protocol] = results.key_of(settings)
    return found


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
    on, record = task.on, task.record
    assert on is not None
    todo = []
    for protocol, made in before.items():
        if made.key == outcome.get(protocol):
            record.measurements[protocol] = made
    for protocol in fitting(on, wanted):
        if isinstance(outcome[protocol], Fault):
            note(record, outcome[protocol], protocol=protocol)
        elif force or protocol not in record.measurements:
            todo.append(protocol)
    task.todo = tuple(todo)


def _nothing_fits(task: Task, wanted: Sequence[str]) -> None:
    if task.record.status != "measured":
        return
    assert task.on is not None
    kind = task.on.data.kind
    fit = [name for name, each in protocols.PROTOCOLS.items() if kind in each.kinds]
    told = f"{', '.join(wanted)} is not for a {kind} set; these are: {', '.join(fit)}"
    note(task.record, Fault(f"{task.on.data.where}: {told}", missing=True))


def _folds(entry: suites.Entry, data: str) -> str:
    """The file of official folds, where the set has one and it is there."""
    file = epath.Path(data) / entry.id / entry.folds if data and entry.folds else None
    return str(file) if file and file.exists() else ""


def _given(prompts: str, name: str) -> str:
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
    if distributed.is_lead() and (found := results.read(file)):
        content = json.dumps(results.to_json(found)).encode()
    record = results.parse(distributed.from_lead(content))
    return record.measurements if record else {}


def _new_record(on: OnSet) -> Record:
    data, subject = on.data, on.subject
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
        weights=subject.weights,
        preprocessing=subject.preprocessing,
        precision=subject.precision,
        versions=results.versions(),
    )


def _settings(on: OnSet, protocol: str) -> dict[str, Any]:
    """What determines a protocol's figures; ConfigError where the set's metric is none of it."""
    classes = len(on.data.keys) if on.data.kind in ("classification", "multilabel") else 0
    metric_names.check_fits(
        on.data.metric, protocol=protocol, kind=on.data.kind, classes=classes, where=on.data.where
    )
    return {
        "protocol": protocol,
        "weights": on.subject.weights["id"],
        "data": [on.data.source.fingerprint, on.data.split, on.data.n],
        "preprocessing": on.subject.preprocessing,
        "precision": on.subject.precision,
        **protocols.PROTOCOLS[protocol].settings(on),
    }
