"""Tar shards as img2dataset, LAION and DataComp write them, as a source with random access.

In the registry of `clipjax.data.sources` as "tar". A sample is the members that share a name up
to the first dot (`tar_index`); its image is the .jpg, .jpeg, .png or .webp and its text the .txt,
or a field of the .json. Reading one takes two reads at known offsets: nothing is extracted or
unpickled, and names inside a tar are never used as paths.
"""

import bisect
import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import os
import time
from typing import Any

import numpy as np

from clipjax.common.exits import DataError
from clipjax.common.registry import closest
from clipjax.data.sources import shard_paths
from clipjax.data.sources.tar_reader import BLOCK, REMEDY, OpenTar
from clipjax.data.sources.tar_table import Choice, Table, load_table

MAX_IMAGE = 64 << 20  # bytes of an image member
MAX_TEXT = 1 << 20  # bytes of a .txt or .json member
OPEN_FILES = 128  # shards open at a time in a process
TABLES = 2048  # shards whose tables are in memory: 10,000 samples take about 0.3 MB
THREADS = 8  # that open shards; most of the time goes in waiting for a disk
LOOKED_AT = 1000  # samples without a pair before the keys are called wrong
PATIENCE = 10.0  # seconds between notes on progress

log = logging.getLogger(__name__)


class TarSource:
    """Random access to the image-text pairs of tar shards.

    Args:
      path: "DATA/{00000..00999}.tar", "DATA/*.tar", a folder, or several joined by "::".
      image_key: extension of the image member; "" is jpg, jpeg, png or webp, in this order.
      text_key: "" or "txt" is the .txt member, ".cap" another member, and any other word a field
        of the .json member; a list there gives several captions.
      cache_dir: folder for the indexes; "" is beside each shard, or else ~/.cache/clipjax/tar.

    Keys are "SHARD/SAMPLE", with as much of the shard's path as tells shards apart. Samples
    without image or text are left out, and counted by reason in `skipped`. `fingerprint` holds
    names, sizes and lengths of the shards, so it is the same for a copy elsewhere.

    Raises:
      ConfigError: nothing is found at `path`.
      DataError: shards are missing, damaged or no tars, or no sample has both image and text.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        image_key: str = "",
        text_key: str = "",
        cache_dir: str = "",
    ):
        self._choice = Choice.of(image_key=image_key, text_key=text_key)
        self._cache_dir = cache_dir
        self._paths = shard_paths.expand(path, ending=".tar")
        folders = [os.path.dirname(os.path.abspath(path)) for path in self._paths]
        top = os.path.commonpath(folders)
        self._names = [os.path.relpath(os.path.abspath(path), top) for path in self._paths]
        self.name = os.path.basename(top) or "tar"
        self._start()
        lengths, sizes = self._survey()
        self._ends = list(itertools.accumulate(lengths))
        if self._choice.field:
            self._find_field()
        identity = (
            list(zip(self._names, sizes, lengths, strict=True)),
            dataclasses.astuple(self._choice),
        )
        self.fingerprint = hashlib.sha256(repr(identity).encode()).hexdigest()

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """{"image": bytes, "text": str or list of str, "key": str}.

        Raises:
          ValueError: a member is too large, or the .json has no text in that field.
          OSError: the shard cannot be read.
          DataError: the shard is not what it was when this source was made.
        """
        file, table, row = self._locate(index)
        key = self.key(index)
        image = member(file, table.image[:, row], limit=MAX_IMAGE, key=key)
        return {"image": image, "text": self._text(file, table, row, key=key), "key": key}

    def caption(self, index: int) -> str | list[str]:
        """The text of one record, without reading its image; raises as `[index]` does."""
        file, table, row = self._locate(index)
        return self._text(file, table, row, key=self.key(index))

    def key(self, index: int) -> str:
        """Shard and sample of one record, without reading it."""
        shard, row = self._place(index)
        try:
            return f"{self._names[shard]}/{self._table(self._paths[shard]).key(row)}"
        except OSError:
            return f"{self._names[shard]}/sample {row}"

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in ("_open", "_table")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._start()  # open files and tables do not travel: each process opens what it reads

    def _start(self) -> None:
        load = functools.partial(load_table, choice=self._choice, cache_dir=self._cache_dir)
        self._table = functools.lru_cache(TABLES)(load)
        self._open = functools.lru_cache(OPEN_FILES)(OpenTar)

    def _place(self, index: int) -> tuple[int, int]:
        """Number of the shard, and row in its table."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside 0 … {len(self) - 1}")
        shard = bisect.bisect_right(self._ends, index)
        return shard, int(index) - (self._ends[shard - 1] if shard else 0)

    def _locate(self, index: int) -> tuple[OpenTar, Table, int]:
        """The open shard of a record, its table, and the row there."""
        shard, row = self._place(index)
        path = self._paths[shard]
        file, table = self._open(path), self._table(path)
        if file.identity != table.identity:  # copied again or touched since: look again
            self._open.cache_clear()
            self._table.cache_clear()
            file, table = self._open(path), self._table(path)
        if file.identity != table.identity or table.digest != self._digests[shard]:
            raise DataError(f"tar shard {path}: changed while in use; start again")
        return file, table, row

    def _text(self, file: OpenTar, table: Table, row: int, *, key: str) -> str | list[str]:
        data = member(file, table.text[:, row], limit=MAX_TEXT, key=key)
        if not self._choice.field:
            return data.decode("utf-8", errors="ignore")
        return text_of(parse(data, key=key).get(self._choice.field), key=key)

    def _survey(self) -> tuple[list[int], list[int]]:
        """Look into all shards; returns their lengths in samples and sizes in bytes.

        Sets `skipped` and the digests that tell later whether a shard has changed.
        """
        lengths, sizes, problems = [], [], []
        skipped: collections.Counter[str] = collections.Counter()
        seen: dict[str, None] = {}
        samples = 0
        self._digests: list[int] = []
        told = time.monotonic()
        pool = concurrent.futures.ThreadPoolExecutor(THREADS)
        try:
            for outcome in pool.map(self._try_table, self._paths):
                if isinstance(outcome, DataError):
                    problems.append(outcome)
                    log.warning("%s", outcome)
                    continue
                lengths.append(len(outcome))
                sizes.append(outcome.identity[0])
                self._digests.append(outcome.digest)
                skipped.update(outcome.skipped)
                seen.update(dict.fromkeys(outcome.seen))
                samples += outcome.samples
                if samples >= LOOKED_AT and not any(lengths):
                    break
                if time.monotonic() - told > PATIENCE:
                    told = time.monotonic()
                    log.warning("indexed %d of %d tar shards", len(lengths), len(self._paths))
        finally:
            pool.shutdown(cancel_futures=True)
        if problems:
            several = (
                f"{len(problems):,} of {len(self._paths):,} tar shards are unusable; the first: "
            )
            raise DataError(f"{several if len(problems) > 1 else ''}{problems[0]}")
        if not any(lengths):
            raise self._choice.no_pairs(self.name, samples=samples, seen=list(seen))
        self.skipped = dict(skipped)
        if samples > sum(lengths):
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in skipped.items())
            log.warning(
                "%s: %d of %d samples are usable; %s", self.name, sum(lengths), samples, reasons
            )
        return lengths, sizes

    def _try_table(self, path: str) -> Table | DataError:
        try:
            return self._table(path)
        except DataError as error:
            return error
        except OSError as error:
            return DataError(f"tar shard {path}: {error.strerror or error}; {REMEDY}")

    def _find_field(self) -> None:
        """Raise DataError if none of the first samples has the field; mostly the first one has."""
        field = self._choice.field
        seen: dict[str, None] = {}
        looked_at = min(len(self), LOOKED_AT)
        for index in range(looked_at):
            file, table, row = self._locate(index)
            try:
                fields = parse(member(file, table.text[:, row], limit=MAX_TEXT, key=""), key="")
            except (ValueError, OSError):
                continue
            if field in fields:
                return
            seen.update(dict.fromkeys(fields))
        raise DataError(
            f"config.data.text_key: 0 of the first {looked_at:,} samples of {self.name} have"
            f" {field!r} in their .json{closest(field, seen)}; fields seen:"
            f" {', '.join(map(ascii, list(seen)[:20])) or 'none'}"
        )


def member(file: OpenTar, extent: np.ndarray, *, limit: int, key: str) -> bytes:
    """The content of a member, (block, size); ValueError if too large or not all there."""
    block, size = map(int, extent)
    if size > limit:
        raise ValueError(f"{key}: a member of {size:,} bytes is above the limit of {limit:,}")
    data = file.read(size, offset=block * BLOCK)
    if len(data) < size:
        raise ValueError(f"{key}: the shard ends within this record")
    return data


def parse(data: bytes, *, key: str) -> dict[str, Any]:
    """The fields of a .json member, or ValueError."""
    try:
        fields = json.loads(data.decode("utf-8-sig", errors="ignore"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{key}: the .json cannot be parsed ({error})") from None
    if not isinstance(fields, dict):
        raise ValueError(f"{key}: the .json holds no fields")
    return fields


def text_of(value: Any, *, key: str) -> str | list[str]:
    """Text or texts of a field; "" for a missing one, as for an empty .txt."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return value
    raise ValueError(f"{key}: the field of the .json is no text and no list of texts")
