"""Many shard files as one source with random access; the formats are plugged in.

`tar`, `tfrecord`, `parquet` and `table` each give a `shard_format.Format`: how to list a shard's
usable records and how to read one. Everything else is here: numbering over shards, keys, the survey
at the start, open files, changes noticed, and travel to worker processes.
"""

import bisect
import collections
import concurrent.futures
import functools
import hashlib
import itertools
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from clipjax.common import files, git_lfs, urls
from clipjax.common.exits import ConfigError, DataError
from clipjax.data import sources
from clipjax.data.source import BadRecord, Shards, Source
from clipjax.data.sources import remote, shard_format, shard_paths
from clipjax.data.sources.shard_files import REMEDY, ShardFiles
from clipjax.data.sources.shard_format import Format

SURVEY = "survey.json"  # in the folder that config.data.index names
SURVEY_VERSION = 1
OPEN_FILES = 128  # shards open at a time in a process
TABLES = 2048  # shards whose tables are in memory: 10,000 samples take about 0.3 MB
THREADS = 8  # that open shards; most of the time goes in waiting for a disk
LOOKED_AT = 1000  # samples without a pair before the keys are called wrong
PATIENCE = 10.0  # seconds between notes on progress

log = logging.getLogger(__name__)


class ShardedSource(Source):
    """Random access to the image-text pairs of many files of one format.

    Args:
      path: "DATA/{00000..00999}.tar", "DATA/*.tar", a folder, `gs://…`, or several by "::".
      form: the format.
      files: where indexes and copies of remote shards are kept.
      survey: what `survey_of` gave for the same files and settings, so that no shard is opened now.

    Keys are "SHARD/SAMPLE", with as much of the shard's path as tells shards apart. Samples and
    rows without image or text are left out, and counted by reason in `skipped`. `fingerprint` holds
    names, sizes and lengths of the shards, so it is the same for a copy elsewhere. `lengths` are
    the usable records of each shard, in order, and `sizes` its bytes.

    Raises:
      ConfigError: nothing is found at `path`.
      DataError: shards are missing, damaged or no tars, or no sample has both image and text.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        form: Format,
        files: ShardFiles,
        survey: Mapping[str, Any] | None = None,
    ):
        self.form = form
        self.files = files
        form.check_path(os.fspath(path))
        self.paths = shard_paths.expand(path, ending=form.ending)
        _check_fetched(self.paths, kind=form.kind)
        self.name, self._names = short_names(self.paths, form=form)
        self._start()
        self._is_surveyed = survey is not None
        if survey is None:
            shards = self._survey()
        else:
            shards = surveyed(survey, names=self._names, choice=form.choice())
            self.skipped = dict(survey["skipped"])
        sizes, self.lengths, self._digests = (list(column) for column in zip(*shards, strict=True))
        self._ends = list(itertools.accumulate(self.lengths))
        if survey is None and (problem := form.missing_fields(self)):
            raise DataError(problem)
        identity = (list(zip(self._names, sizes, self.lengths, strict=True)), form.choice())
        self.fingerprint = hashlib.sha256(repr(identity).encode()).hexdigest()
        self.sizes = sizes

    @property
    def shards(self) -> Shards:
        return Shards(self.lengths, self.sizes, is_remote=any(map(remote.is_remote, self.paths)))

    @property
    def extents(self) -> list[tuple[str, int, int]]:
        """Each shard with all its records."""
        files = [p if remote.is_remote(p) else os.path.realpath(p) for p in self.paths]
        return [(file, 0, length) for file, length in zip(files, self.lengths, strict=True)]

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """{"image": bytes, "text": str, list of str, or these by field, "key": str}.

        Raises:
          BadRecord: its bytes cannot be had or taken apart.
          OSError: the shard cannot be read.
          DataError: the shard is not what it was when this source was made.
        """
        file, table, row = self.locate(index)
        try:
            image, text = self.form.image(file, table, row), self.form.text(file, table, row)
        except BadRecord as error:
            raise BadRecord(error.reason, error.detail, key=self.key(index)) from None
        return {"image": image, "text": text, "key": self.key(index)}

    def caption(self, index: int) -> Any:
        """The text of one record, without reading its image; raises as `[index]` does."""
        file, table, row = self.locate(index)
        try:
            return self.form.text(file, table, row)
        except BadRecord as error:
            raise BadRecord(error.reason, error.detail, key=self.key(index)) from None

    def fields(self, index: int) -> Sequence[str]:
        """Names of the members, features or columns of one record; raises as `[index]` does."""
        return self.form.fields(*self.locate(index))

    def image_file(self, index: int) -> str:
        """The path of a record's image where it is a file of its own, else ""; raises as above."""
        return self.form.image_file(*self.locate(index))

    def key(self, index: int) -> str:
        """Shard and sample of one record, without reading it."""
        shard, row = self.place(index)
        try:
            return f"{self._names[shard]}/{self._table(self.paths[shard]).key(row)}"
        except OSError:
            return f"{self._names[shard]}/sample {row}"

    def place(self, index: int) -> tuple[int, int]:
        """Number of the shard, and of the usable row there."""
        index = self.checked(index)
        shard = bisect.bisect_right(self._ends, index)
        return shard, index - (self._ends[shard - 1] if shard else 0)

    def locate(self, index: int) -> tuple[Any, Any, int]:
        """The open shard of a record, its table, and the row there."""
        shard, row = self.place(index)
        path = self.paths[shard]
        file, table = self._open(path), self._table(path)
        if file.identity != table.identity:  # copied again or touched since: look again
            self._open.cache_clear()
            self._table.cache_clear()
            file, table = self._open(path), self._table(path)
        if file.identity != table.identity or table.digest != self._digests[shard]:
            since = (
                "since config.data.index was made; make it again: python -m clipjax.dataset index"
                if self._is_surveyed
                else "while in use; start again"
            )
            raise DataError(f"{self.form.kind} {urls.shown(path)}: changed {since}")
        return file, table.table, table.row(row)

    def prepare(self, indices: Sequence[int]) -> None:
        """Fetch the remote shards of these records in the background."""
        for index in indices:
            path = self.paths[self.place(index)[0]]
            if path not in self._prepared and remote.is_remote(path):
                self._prepared.add(path)
                self._fetcher.submit(self._fetch_quietly, path)

    def survey_of(self) -> dict[str, Any]:
        """What the survey at the start found, JSON-ready; another source can start from it."""
        return {
            "choice": json.loads(json.dumps(self.form.choice())),
            "skipped": self.skipped,
            "shards": [
                list(row)
                for row in zip(self._names, self.sizes, self.lengths, self._digests, strict=True)
            ],
        }

    def __getstate__(self) -> dict[str, Any]:
        own = ("_open", "_table", "_fetcher", "_prepared")
        return {key: value for key, value in vars(self).items() if key not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._start()  # open files and tables do not travel: each process opens what it reads

    def _start(self) -> None:
        self._table = functools.lru_cache(TABLES)(
            functools.partial(shard_format.load, form=self.form, files=self.files)
        )
        self._open = functools.lru_cache(OPEN_FILES)(self._open_shard)
        self._fetcher = concurrent.futures.ThreadPoolExecutor(2, "fetch-shards")
        self._prepared: set[str] = set()

    def _open_shard(self, path: str) -> Any:
        if remote.is_remote(path):
            # Copies make room for one another; one still open would keep its room on the disk.
            self._open.cache_clear()
            self._prepared.discard(path)
        return self.files.opened(path, opener=self.form.open)

    def _fetch_quietly(self, path: str) -> None:
        try:
            self.files.local(path)
        except Exception as error:  # the read that needs it will tell
            log.warning("%s", error)
            self._prepared.discard(path)

    def _survey(self) -> list[tuple[int, int, int]]:
        """Look into all shards; (bytes, length in samples, digest) of each. Sets `skipped`."""
        measured: list[tuple[int, int, int]] = []
        problems: list[DataError] = []
        skipped: collections.Counter[str] = collections.Counter()
        seen: dict[str, None] = {}
        samples = usable = 0
        last_said = time.monotonic()
        pool = concurrent.futures.ThreadPoolExecutor(THREADS)
        try:
            for outcome in pool.map(self._try_table, self.paths):
                if isinstance(outcome, DataError):
                    problems.append(outcome)
                    if len(problems) > 1:  # the first one is raised in the end
                        log.warning("%s", outcome)
                    continue
                measured.append((outcome.identity[0], len(outcome), outcome.digest))
                skipped.update(outcome.skipped)
                seen.update(dict.fromkeys(outcome.seen))
                samples += outcome.samples
                usable += len(outcome)
                if samples >= LOOKED_AT and not usable:
                    break
                if time.monotonic() - last_said > PATIENCE:
                    last_said = time.monotonic()
                    log.warning(
                        "indexed %d of %d %ss", len(measured), len(self.paths), self.form.kind
                    )
        finally:
            pool.shutdown(cancel_futures=True)
        if problems:
            several = (
                f"{len(problems):,} of {len(self.paths):,} {self.form.kind}s are unusable;"
                " the first: "
            )
            raise DataError(f"{several if len(problems) > 1 else ''}{problems[0]}")
        if not usable:
            raise self.form.no_pairs(self.name, samples=samples, seen=list(seen))
        self.skipped = dict(skipped)
        if samples > usable:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in skipped.items())
            log.warning("%s: %d of %d samples are usable; %s", self.name, usable, samples, reasons)
        return measured

    def _try_table(self, path: str) -> Any:
        try:
            return self._table(path)
        except DataError as error:
            other = sources.what_reads(path, ending=self.form.ending)
            return DataError(str(error).replace(REMEDY, other)) if other else error
        except OSError as error:
            where = urls.shown(path)
            reason = error.strerror or str(error).removeprefix(f"{where}: ")
            return DataError(f"{self.form.kind} {where}: {reason}; {REMEDY}")


def _check_fetched(paths: Sequence[str], *, kind: str) -> None:
    """Raise DataError if a local shard is a pointer of Git LFS."""
    for path in paths:
        is_file = not remote.is_remote(path) and os.path.isfile(path)  # a pipe would never open
        if is_file and os.path.getsize(path) <= git_lfs.LONGEST:
            with open(path, "rb") as file:
                if git_lfs.is_pointer(file.read(git_lfs.LONGEST)):
                    raise DataError(f"{kind} {path}: {git_lfs.FETCH}")


def open_shards(
    form: type[Format],
    path: str | os.PathLike[str],
    *,
    image_key: str = "",
    text_key: str = "",
    files: ShardFiles | None = None,
    survey: Mapping[str, Any] | None = None,
) -> ShardedSource:
    """The image-text pairs of shards of a format.

    Arguments as those of `form.of` and `ShardedSource`, and errors as theirs.
    """
    return ShardedSource(
        path,
        form=form.of(image_key=image_key, text_key=text_key),
        files=files or ShardFiles(),
        survey=survey,
    )


def short_names(paths: Sequence[str], *, form: Format) -> tuple[str, list[str]]:
    """A name for the whole set, and for each shard as much of its path as tells shards apart."""
    full = [urls.shown(p) if remote.is_remote(p) else os.path.abspath(p) for p in paths]
    folders = {os.path.dirname(path) for path in full}
    schemes = {path.split("://")[0] if "://" in path else "" for path in full}
    top = os.path.commonpath(folders) if len(schemes) == 1 else ""
    # `commonpath` makes one slash of two.
    plain = [path.replace("://", ":/") if top else path for path in full]
    names = [os.path.relpath(path, top) if top else path for path in plain]
    return os.path.basename(top) or form.ending.removeprefix("."), names


def surveyed(
    survey: Mapping[str, Any], *, names: Sequence[str], choice: tuple[Any, ...]
) -> list[tuple[int, int, int]]:
    """The rows of a survey for these shards; DataError if it was made for something else."""
    if json.loads(json.dumps(choice)) != survey["choice"]:
        raise DataError(
            f"config.data.index: made for the keys {survey['choice']}, and the settings are"
            f" {list(choice)}; make it again: python -m clipjax.dataset index"
        )
    by_name = {name: (size, length, digest) for name, size, length, digest in survey["shards"]}
    missing = [name for name in names if name not in by_name]
    if missing:
        raise DataError(
            f"config.data.index: {len(missing):,} of {len(names):,} shards are not in it, first"
            f" {missing[0]}; make it again: python -m clipjax.dataset index"
        )
    return [by_name[name] for name in names]


def read_survey(folder: str) -> dict[str, Any]:
    """The survey in a folder, for `ShardedSource(survey=…)`.

    Raises:
      ConfigError: there is none.
      DataError: it is damaged, or of another version.
    """
    path = f"{folder.rstrip('/')}/{SURVEY}"
    try:
        survey = json.loads(remote.read(path))
    except OSError as error:
        raise ConfigError(
            f"config.data.index: cannot be read: {error.strerror or error}; make {path} with"
            " python -m clipjax.dataset index"
        ) from None
    except ValueError:
        survey = {}
    if not isinstance(survey, dict) or survey.get("version") != SURVEY_VERSION:
        raise DataError(
            f"config.data.index: {path} is damaged or of another version; make it again with"
            " python -m clipjax.dataset index"
        )
    return survey


def write_survey(survey: Mapping[str, Any], *, folder: str) -> None:
    """Write a survey, after the indexes it belongs to."""
    files.write(f"{folder.rstrip('/')}/{SURVEY}", json.dumps({"version": SURVEY_VERSION, **survey}))
