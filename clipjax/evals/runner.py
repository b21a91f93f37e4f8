"""Runs a suite on a model: opens all sets, measures what is not measured yet, writes each result.

    FOLDER/SET.json                   the record (`results`)
    FOLDER/arrays/SET.PROTOCOL.npz    label, choice and rank of each image
    FOLDER/classifiers/               zero-shot classifiers by weights and prompts
    FOLDER/summary.{json,csv,md}

`evaluate` calls it on every process; process 0 reads and writes, the others follow.
"""

import dataclasses
import functools
import io
import json
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from clipjax.common import files
from clipjax.common.exits import ConfigError, DataError
from clipjax.evals import protocols, results, set_data, suite_checks, suites, summary
from clipjax.evals.progress import Progress
from clipjax.evals.results import Record
from clipjax.evals.subject import OnSet, Subject
from clipjax.parallel import distributed

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Task:
    """A set whose data are open, and what is to be measured on it."""

    on: OnSet
    record: Record
    todo: tuple[str, ...]


def run_suite(
    subject: Subject,
    suite: suites.Suite,
    *,
    folder: str,
    data: str = "",
    prompts: str = "",
    only: str | Sequence[str] = (),
    force: bool = False,
    compare: str = "",
    say: Say = print,
) -> list[Record]:
    """Measure, write and return the records of all sets, in the suite's order.

    Args:
      subject: the model.
      suite: what to run.
      folder: of results, made if it is not there.
      data: folder of the sets, see `set_data`; "" where all have a path of their own.
      prompts: folder of the user's prompts, SET.json or SET/; "" is none.
      only: protocols, in place of the suite's.
      force: measure again what is measured.
      compare: released model whose published numbers stand beside; "" is none.
      say: prints a line.
    """
    place = epath.Path(folder)
    lead = distributed.is_lead()
    records, tasks = [], []
    for entry in suite.entries:
        wanted = suite_checks.protocol_names(only) or entry.run or suite.run
        task = _prepare(subject, entry, wanted, data=data, folder=place, prompts=prompts)
        if isinstance(task, Task):
            task = dataclasses.replace(task, todo=fitting(task.on, wanted)) if force else task
            tasks.append(task)
            records.append(task.record)
        else:
            records.append(task)
    _agree([(record.set, record.status) for record in records])
    if lead:
        _overview(suite, records, tasks, say=say)
    images = sum(task.on.data.n for task in tasks if task.todo)
    with Progress(images, sets=sum(bool(task.todo) for task in tasks), show=lead) as progress:
        for task in tasks:
            if task.todo:
                progress.begin(task.record.name, images=task.on.data.n)
                task.on.poll = functools.partial(progress.batch, subject.embedder.batch_size)
                _measure(task, folder=place, say=progress.say if lead else _silent)
                progress.end()
            task.on.forget()  # memory of one set at a time
    if lead:
        for record in records:
            file = place / f"{record.set}.json"
            if record.status == "failed" or (record.status == "missing" and not file.exists()):
                results.write(record, file)
        summary.write(records, folder=place, suite=suite, subject=subject, compare=compare)
    return records


def fitting(on: OnSet, names: Iterable[str]) -> tuple[str, ...]:
    """Of the protocols, those that fit the set's kind."""
    return tuple(
        p
        for p in names
        if p in protocols.PROTOCOLS and on.data.kind in protocols.PROTOCOLS[p].kinds
    )


def _prepare(
    subject: Subject,
    entry: suites.Entry,
    wanted: Sequence[str],
    *,
    data: str,
    folder: Any,
    prompts: str,
) -> Task | Record:
    """What there is to do on a set, or a record that says why there is nothing."""
    try:
        place = {"data": data, "image_size": subject.image_size}
        opened = set_data.open_set(entry, **place)
        on = OnSet(
            subject,
            opened,
            functools.partial(set_data.open_train, entry, **place),
            functools.partial(set_data.open_validation, entry, **place),
            prompts_given=_given(prompts, entry.id),
            classifiers=str(folder / "classifiers"),
            folder=data,
            folds_file=_folds(entry, data),
        )
        record = _new_record(on)
        kept = _kept(folder / f"{entry.id}.json")
        before = kept.measurements if kept else {}
        asked = fitting(on, wanted)
        keys = {p: _key(on, p)[0] for p in {*asked, *fitting(on, before)}}
    except set_data.Missing as error:
        return Record(entry.id, entry.name, status="missing", message=str(error))
    except (ConfigError, DataError) as error:
        return Record(entry.id, entry.name, status="failed", message=str(error))
    for protocol, made in before.items():
        if made.key == keys.get(protocol):
            record.measurements[protocol] = made
    return Task(on, record, tuple(p for p in asked if p not in record.measurements))


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


def _kept(file: Any) -> Record | None:
    """The record in a file, as process 0 sees it."""
    content = b""
    if distributed.is_lead() and (found := results.read(file)):
        content = json.dumps(results.to_json(found)).encode()
    content = distributed.from_lead(content)
    return results.parse(content) if content else None


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


def _key(on: OnSet, protocol: str) -> tuple[str, dict[str, Any]]:
    """The measurement's key, and what it is made of."""
    settings = {
        "protocol": protocol,
        "weights": on.subject.weights["id"],
        "data": [on.data.source.fingerprint, on.data.split, on.data.n],
        "preprocessing": on.subject.preprocessing,
        "precision": on.subject.precision,
        **protocols.PROTOCOLS[protocol].settings(on),
    }
    return results.key_of(settings), settings


def _measure(task: Task, *, folder: Any, say: Say) -> None:
    """Measure and write after each protocol; an error of the data becomes the record's."""
    on, record = task.on, task.record
    for protocol in task.todo:
        began = time.perf_counter()
        try:
            made, arrays = protocols.PROTOCOLS[protocol].measure(on)
        except set_data.Missing as error:
            say(f"{record.name}, {protocol}: left out: {error}")
            continue
        except (ConfigError, DataError) as error:
            if jax.process_count() > 1:
                raise  # the others wait for this process within the measurement
            record.status, record.message = "failed", str(error)
            say(f"{record.name}, {protocol}: FAILED: {error}")
            break
        made.key, made.settings = _key(on, protocol)
        made.seconds, made.time = round(time.perf_counter() - began, 2), results.now()
        record.measurements[protocol] = made
        if distributed.is_lead():
            _write_arrays(arrays, folder / "arrays" / f"{record.set}.{protocol}.npz")
            results.write(record, folder / f"{record.set}.json")
        say(f"{record.name}, {protocol}: {made.metric} {made.main}, {made.seconds:.1f} s")
        for warning in made.warnings:
            say(f"  {warning}")


def _write_arrays(arrays: protocols.Arrays, file: Any) -> None:
    if not arrays:
        return
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # pyright: ignore
    files.write(file, content.getvalue())


def _agree(seen: list[tuple[str, str]]) -> None:
    """Raise DataError where processes do not see the same data: they would wait for each other."""
    code = int(results.key_of({"": seen})[:7], 16)
    found = distributed.gather(np.int32(code))
    if len(set(np.ravel(found).tolist())) > 1:
        mine = ", ".join(f"{name} {status}" for name, status in seen)
        raise DataError(
            f"process {jax.process_index()} sees other data than the others ({mine}); give every"
            " host the same --data"
        )


def _overview(
    suite: suites.Suite, records: Sequence[Record], tasks: Sequence[Task], *, say: Say
) -> None:
    missing = [record for record in records if record.status == "missing"]
    failed = [record for record in records if record.status == "failed"]
    done = sum(not task.todo for task in tasks)
    say(
        f"{suite.name}: {len(records)} sets: {len(tasks) - done} to measure, {done} measured"
        f" before, {len(missing)} missing, {len(failed)} that cannot be used"
    )
    for record in (task.record for task in tasks):
        classes = f" of {count:,} classes" if (count := record.data["classes"]) else ""
        say(f"  {record.name}: {record.data['n']:,} images{classes}, {record.data['where']}")
    for record in failed:
        say(f"  {record.name}: {record.message}")
    for record in missing:
        say(f"  {record.name} is missing: {record.message}")


def _silent(line: str) -> None:
    del line
