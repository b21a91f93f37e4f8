"""Evaluation batches for this host: in order, padded to one size, with a mask.

Every host gets the same number of batches, so that collective operations match up; rows past the
last record are zero, with mask False. Called by `clipjax.evals`. Images are decoded in threads.
"""

import collections
import concurrent.futures
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from clipjax.common.exits import DataError
from clipjax.data import captions, images
from clipjax.data.examples import Tokenizer
from clipjax.data.source import BadRecord, Source

AHEAD = 2  # batches being decoded while one is used


def eval_image_batches(
    source: Source,
    *,
    size: int,
    batch_size: int,
    resize: str = "crop",
    rows: np.ndarray | None = None,
    num_threads: int = 4,
) -> Iterator[dict[str, np.ndarray]]:
    """This host's rows of the source's images, in order, preprocessed as released.

    Args:
      source: N records.
      size: side of the square images, in pixels.
      batch_size: global batch; global row r of batch k is record k * batch_size + r.
      resize: how images become squares, see `images.decode_eval`.
      rows: which rows of the global batch this host makes, int [b], ascending; default all.
      num_threads: threads that read and decode.

    Yields:
      {"image": uint8 [b, size, size, 3], "mask": bool [b], "index": int32 [b]}, as many batches
      on every host. Rows past the last record are zero, with mask False and index 0.

    Raises:
      DataError: an image is damaged; evaluating without it would change the result.
    """
    return padded_batches(
        functools.partial(load_eval_image, source=source, size=size, resize=resize),
        length=len(source),
        batch_size=batch_size,
        rows=rows,
        num_threads=num_threads,
    )


def eval_text_batches(
    texts: Sequence[str],
    *,
    tokenizer: Tokenizer,
    batch_size: int,
    rows: np.ndarray | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """This host's rows of some texts, in order: {"text": int32 [b, T], "mask", "index"}.

    Padding as in `eval_image_batches`.
    """
    return padded_batches(
        lambda index: {"text": tokenizer.encode([texts[index]])[0][0]},
        length=len(texts),
        batch_size=batch_size,
        rows=rows,
        num_threads=1,
    )


def eval_caption_list(source: Source) -> tuple[list[str], np.ndarray]:
    """Every caption of an evaluation source, for retrieval with several captions per image.

    Returns:
      (texts, image_index): N cleaned captions, and int32 [N], the record that each belongs to.

    Raises:
      DataError: a record has no caption.
    """
    groups = [eval_captions(source, index) for index in range(len(source))]
    texts = [text for group in groups for text in group]
    counts = [len(group) for group in groups]
    return texts, np.repeat(np.arange(len(groups), dtype=np.int32), counts)


def eval_captions(source: Source, index: int) -> list[str]:
    """The cleaned captions of one evaluation record; DataError if there is none."""
    try:
        texts = captions.usable(source.caption(index))
    except (ValueError, OSError) as error:
        raise _unusable(source, index, error) from error
    if not texts:
        raise DataError(f"{_record(source, index)} has no caption")
    return texts


def load_eval_image(
    index: int, *, source: Source, size: int, resize: str = "crop"
) -> dict[str, np.ndarray]:
    """{"image": uint8 [size, size, 3]} of one evaluation record; DataError if it is damaged."""
    try:
        data = source.read(index)["image"]
        return {"image": images.decode_eval(data, size=size, resize=resize)}
    except BadRecord as error:
        raise _unusable(source, index, error) from error


def _unusable(source: Source, index: int, error: Exception) -> DataError:
    why = error.message if isinstance(error, BadRecord) else str(error)
    return DataError(f"{_record(source, index)} is unusable ({why}); repair or remove it")


def _record(source: Source, index: int) -> str:
    return f"evaluation source {source.name}: record {source.key(index)}"


def padded_batches(
    load: Callable[[int], dict[str, np.ndarray]],
    *,
    length: int,
    batch_size: int,
    rows: np.ndarray | None,
    num_threads: int,
) -> Iterator[dict[str, np.ndarray]]:
    """Batches of load(0), load(1), …, load(length - 1), the last one padded with zeros.

    `load` gives one row and runs in a pool of threads, up to AHEAD batches early.
    """
    rows = np.arange(batch_size) if rows is None else rows
    count = -(-length // batch_size)
    with concurrent.futures.ThreadPoolExecutor(num_threads, "eval-batches") as pool:
        pending: collections.deque[tuple[np.ndarray, list[concurrent.futures.Future[Any]]]]
        pending = collections.deque()
        try:
            for number in range(count + AHEAD):
                if number < count:
                    indices = number * batch_size + rows
                    # A host whose rows are all padding still loads one, for shapes and dtypes.
                    wanted = indices[indices < length] if indices.min() < length else [0]
                    futures = [pool.submit(load, int(index)) for index in wanted]
                    pending.append((indices, futures))
                if number >= AHEAD:
                    indices, futures = pending.popleft()
                    loaded = [future.result() for future in futures]
                    yield pad_rows(loaded, indices=indices, length=length)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def pad_rows(
    loaded: list[dict[str, np.ndarray]], *, indices: np.ndarray, length: int
) -> dict[str, np.ndarray]:
    """Stack the loaded rows of the ascending `indices` below `length`, zero the rest, and add
    "mask" and "index"."""
    mask = indices < length
    valid = int(mask.sum())
    batch = {}
    for name, sample in loaded[0].items():
        batch[name] = np.zeros((len(indices), *sample.shape), dtype=sample.dtype)
        if valid:
            np.stack([row[name] for row in loaded], out=batch[name][:valid])
    batch["mask"] = mask
    batch["index"] = np.where(mask, indices, 0).astype(np.int32)
    return batch
