"""Scalars as TensorBoard reads them: records of an event file. Used by `metric_writer`.

tensorboardX's own writer keeps a queue of ten events, and its thread ends with the first that
cannot be written: on a full disk the eleventh would wait for ever, and training with it.
"""

import os
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

from tensorboardX import summary
from tensorboardX.proto import event_pb2, summary_pb2
from tensorboardX.record_writer import masked_crc32c

# Made by protobuf when they are imported, so that no type checker knows them.
EVENT: Any = vars(event_pb2)["Event"]
SUMMARY: Any = vars(summary_pb2)["Summary"]


def path(folder: str) -> str:
    """A new event file in `folder`."""
    name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
    return f"{folder.rstrip('/')}/{name}"


def head() -> bytes:
    """What an event file begins with."""
    return _record(EVENT(wall_time=time.time(), file_version="brain.Event:2"))


def scalars(step: int, values: Mapping[str, float]) -> bytes:
    """One step's values."""
    listed = [one for name, value in values.items() for one in summary.scalar(name, value).value]
    return _record(EVENT(wall_time=time.time(), step=step, summary=SUMMARY(value=listed)))


def _record(event: Any) -> bytes:
    """TFRecord's framing: length, its checksum, data, their checksum."""
    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    checksums = [struct.pack("<I", masked_crc32c(part)) for part in (length, data)]
    return length + checksums[0] + data + checksums[1]
