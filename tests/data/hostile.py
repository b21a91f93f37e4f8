"""Mutated and hostile inputs, run in a process of their own so that a crash is seen; see
`test_hostile`. `python hostile.py fuzz COUNT SEED FOLDER`, `… bombs FOLDER`, `… members COUNT
FOLDER`.
"""

import collections
import faulthandler
import functools
import io
import json
import pathlib
import re
import struct
import sys
import time
import zlib

import numpy as np
from PIL import Image

from clipjax.common.exits import DataError
from clipjax.data import captions, images
from clipjax.data.source import BadRecord
from clipjax.data.sources import shard_files, tar_index
from clipjax.data.sources.shard_files import ShardFiles
from clipjax.data.sources.tar import open_tars
from clipjax.data.sources.tfrecord import open_tfrecords
from tests.data import fakes, tars

EXPECTED = (images.BadImage, captions.BadCaption, BadRecord, DataError)
HANG = 30  # seconds after which Python's stack is printed and the process ends


def mutate(data, rng):
    """A few bytes changed, cut, doubled or moved."""
    data = bytearray(data)
    kind = rng.integers(5)
    if kind == 0:
        return bytes(data[: rng.integers(len(data) + 1)])
    if kind == 1:
        begin, end = sorted(rng.integers(len(data) + 1, size=2))
        return bytes(data[:end] + data[begin:])
    for place in rng.integers(len(data), size=rng.integers(1, 20)):
        # Damage near the beginning hits headers.
        place = place if kind < 4 else place % min(len(data), 600)
        data[place] = rng.choice([0, 255, rng.integers(256), data[place] ^ 1 << rng.integers(8)])
    return bytes(data)


def originals():
    photo = fakes.photo(0, width=200, height=150)
    frames = [fakes.photo(i, width=40, height=30) for i in range(4)]
    animated = {"save_all": True, "append_images": frames[1:], "duration": 20}
    return [
        fakes.encode(photo, quality=85),
        fakes.encode(photo, quality=85, progressive=True),
        fakes.encode(photo.convert("CMYK"), quality=85),
        fakes.encode(photo, "PNG"),
        fakes.encode(photo.convert("P"), "PNG", transparency=3),
        fakes.encode(Image.fromarray(np.arange(4800, dtype=np.uint16).reshape(60, 80)), "PNG"),
        fakes.encode(photo, "WEBP"),
        fakes.encode(frames[0], "WEBP", **animated),
        fakes.encode(frames[0], "PNG", **animated),
    ]


class Watch:
    """Outcomes by class, and the CPU seconds of the slowest."""

    def __init__(self):
        self.outcomes = collections.Counter()
        self.slowest = 0.0

    def run(self, call):
        faulthandler.dump_traceback_later(HANG, exit=True)
        began = time.process_time()
        try:
            call()
            self.outcomes["fine"] += 1
        except EXPECTED as error:
            self.outcomes[type(error).__name__] += 1
        self.slowest = max(self.slowest, time.process_time() - began)
        faulthandler.cancel_dump_traceback_later()


def peak(reset=False):
    """Largest memory of this process since the last reset, in MB."""
    if reset:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1000


def fuzz(count, seed, folder):
    rng = np.random.default_rng(seed)
    folder = pathlib.Path(folder)
    files = ShardFiles(str(folder / "cache"))
    seeds = originals()
    tar = pathlib.Path(tars.write(folder / "a.tar", tars.pairs(4))).read_bytes()
    long = [("n" * 300 + ".jpg", b"x"), ("n" * 300 + ".txt", b"long")]
    pax = pathlib.Path(
        tars.write(folder / "b.tar", [*tars.pairs(2), *long], form=tars.tarfile.PAX_FORMAT)
    ).read_bytes()
    examples = [fakes.example(jpg=b"x" * 300, txt=f"text {i}", n=i) for i in range(4)]
    records = pathlib.Path(fakes.write_tfrecord(folder / "a.tfrecord", examples)).read_bytes()
    text = json.dumps({"caption": ["a fox", "é 日本 \\u0000"], "url": None, "n": [1, {"a": 2}]})
    watch = Watch()

    def decode(data):
        return lambda: (
            images.decode_train(data, size=64, rng=np.random.default_rng(0)),
            images.decode_eval(data, size=64),
        )

    def shards(make, name, data):
        def call():
            (folder / name).write_bytes(data)
            source = make(folder / name, files=files)
            for index in range(min(len(source), 8)):
                record = source.read(index)
                captions.choose(record["text"], rng=np.random.default_rng(0))

        return call

    def json_text(data):
        def call():
            entries = [("1.jpg", b"x"), ("1.json", data)]
            path = tars.write(folder / "j.tar", entries)
            record = open_tars(path, files=files, text_key="caption").read(0)
            captions.choose(record["text"], rng=np.random.default_rng(0))

        return call

    watch.run(decode(seeds[0]))
    before = peak(reset=True)
    for number in range(count):
        kind = number % 10
        if kind < 6:
            watch.run(decode(mutate(seeds[number % len(seeds)], rng)))
        elif kind < 8:
            watch.run(shards(open_tars, "m.tar", mutate([tar, pax][number % 2], rng)))
        elif kind == 8:
            watch.run(shards(open_tfrecords, "m.tfrecord", mutate(records, rng)))
        else:
            watch.run(json_text(mutate(text.encode(), rng)))
    return {"outcomes": watch.outcomes, "slowest": watch.slowest, "growth": peak() - before}


def png(width, height, *chunks):
    """A PNG that claims a size, with chunks before its pixels."""

    def chunk(kind, body):
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", head), *(chunk(*c) for c in chunks)]
    pixels = zlib.compress(b"\0" * min(height * (3 * width + 1), 1 << 20))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def zeros(size):
    """`size` zeros, compressed without holding them."""
    made = zlib.compressobj(9)
    out = b"".join(made.compress(bytes(1 << 20)) for _ in range(size >> 20))
    return out + made.flush()


def bombs(folder):
    """name → [refused as, seconds, MB of growth] for each."""
    folder = pathlib.Path(folder)
    files = ShardFiles(str(folder / "cache"))
    text = b"Comment\0\0" + zeros(200 << 20)
    profile = b"icc\0\0" + zeros(200 << 20)
    frames = [Image.new("RGB", (16, 16), (i % 256, i // 4 % 256, 0)) for i in range(1000)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    big = fakes.encode(Image.new("L", (16383, 4000)), "WEBP", lossless=True)
    jpeg = bytearray(fakes.encode(fakes.photo(0, width=16, height=16)))
    place = jpeg.index(b"\xff\xc0") + 5
    jpeg[place : place + 4] = struct.pack(">HH", 20_000, 20_000)
    data = {
        "png 9,000 x 9,000": png(9000, 9000),
        "png 11,000 x 11,000": png(11_000, 11_000),
        "png 20,000 x 20,000": png(20_000, 20_000),
        "png 7,000 x 7,000 of nothing": png(7000, 7000),
        "jpeg 20,000 x 20,000": bytes(jpeg),
        "webp 16,383 x 4,000": big,
        "png with 200 MB of text": png(64, 64, (b"zTXt", text)),
        "png with 200 MB of profile": png(64, 64, (b"iCCP", profile)),
        "png 1 x 1": png(1, 1),
        "png 2 x 5,000": png(2, 5000),
        "webp of 1,000 frames": buffer.getvalue(),
    }
    (folder / "j").mkdir()
    tars.write(folder / "j" / "a.tar", [("1.jpg", b"x"), ("1.json", b"[" * 100_000)])
    giant = tars.header("1.txt", 1 << 30)
    with open(folder / "g.tar", "wb") as file:
        file.write(tars.header("1.jpg", 1) + b"x".ljust(512, b"\0") + giant)
        file.seek(1 << 30, 1)
        file.write(bytes(1024))
    source = open_tars(folder / "g.tar", files=files)
    small = fakes.encode(fakes.photo(0, width=300, height=200))
    images.decode_train(small, size=32, rng=np.random.default_rng(0))
    calls = {
        name: functools.partial(images.decode_train, value, size=32, rng=np.random.default_rng(0))
        for name, value in data.items()
    }
    calls["caption of 1 GB"] = functools.partial(source.read, 0)
    calls["json of 100,000 brackets"] = functools.partial(
        open_tars, folder / "j", files=files, text_key="caption"
    )
    found = {}
    for name, call in calls.items():
        before, began = peak(reset=True), time.process_time()
        try:
            call()
            outcome = "fine"
        except EXPECTED as error:
            outcome = f"{type(error).__name__}: {error}"
        found[name] = [outcome[:80], time.process_time() - began, peak() - before]
    return found


def members(count, folder):
    """[samples, CPU seconds, MB of growth] of indexing a tar of so many empty members, each a
    sample of its own, which takes most memory."""
    path, header = pathlib.Path(folder) / "many.tar", bytearray(tars.header("", 0))
    with open(path, "wb", buffering=1 << 20) as file:
        for number in range(count):
            header[:13] = b"%09d.jpg" % number
            header[148:156] = b"        "
            header[148:156] = b"%06o\0 " % sum(header)
            file.write(header)
        file.write(bytes(1024))
    before, began = peak(reset=True), time.process_time()
    index = tar_index.build(shard_files.OpenFile(str(path)))
    path.unlink()
    return [len(index.key_ends), time.process_time() - began, peak() - before]


if __name__ == "__main__":
    if sys.argv[1] == "fuzz":
        print(json.dumps(fuzz(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])))
    elif sys.argv[1] == "members":
        print(json.dumps(members(int(sys.argv[2]), sys.argv[3])))
    else:
        print(json.dumps(bombs(sys.argv[2])))
