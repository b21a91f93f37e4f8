"""Images a second from the same tar shards: clipjax's loader against open_clip's own pipeline.

    PYTHONPATH=. python tests/bench/input_vs_open_clip.py --open_clip_python OTHER/bin/python

in an environment with clipjax and scikit-learn; OTHER has torch 2.14.1, torchvision 0.29.1,
open_clip_torch 3.3.0, webdataset 0.2.86 and pandas. Shards hold JPEGs of 500 × 400 pixels, quality
90, cut from scikit-learn's two photographs, with captions. Both sides decode, crop, resize to 224,
tokenize and batch with the same number of worker processes, as each does for training: open_clip
through `get_wds_dataset` and its train transform (which crops at random scales and gives normalised
floats), clipjax as uint8. Sides take turns, each in a process of its own; the first images are not
counted. CPU-seconds are of the process and its workers, so that they hold on a shared machine.
The last line is JSON.
"""

import argparse
import io
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time

BATCH, IMAGE_SIZE = 64, 224
TEXT = "a photo of the old red house by river with blue boats near market at night in spring"


def write_shards(folder, *, shards, images):
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    for shard in range(shards):
        with tarfile.open(f"{folder}/{shard:05d}.tar", "w") as file:
            for number in range(images):
                photo = photos[number % 2]
                width = int(rng.integers(420, 500))
                height = width * 4 // 5
                left = int(rng.integers(photo.width - width + 1))
                top = int(rng.integers(photo.height - height + 1))
                cut = photo.crop((left, top, left + width, top + height))
                buffer = io.BytesIO()
                cut.resize((500, 400), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
                caption = " ".join(rng.choice(TEXT.split(), size=10))
                for ending, data in (("jpg", buffer.getvalue()), ("txt", caption.encode())):
                    entry = tarfile.TarInfo(f"{shard:05d}{number:04d}.{ending}")
                    entry.size = len(data)
                    file.addfile(entry, io.BytesIO(data))


def cpu_seconds():
    """User and system time of this process and all below it."""
    parents, times = {}, {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                rest = pathlib.Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            parents[int(entry)] = int(rest[1])
            times[int(entry)] = (int(rest[11]) + int(rest[12])) / os.sysconf("SC_CLK_TCK")

    def mine(process):
        while process > 1:
            if process == os.getpid():
                return True
            process = parents.get(process, 0)
        return False

    return sum(seconds for process, seconds in times.items() if mine(process))


def clipjax_batches(folder, *, workers):
    from clipjax.data import captions, loader
    from clipjax.data.examples import TrainExamples
    from clipjax.data.sources.tar import open_tars
    from clipjax.data.tokenizers import sentencepiece as sentencepiece_tokenizer

    source = open_tars(folder)
    sample = captions.sample(source, limit=1000)
    model = sentencepiece_tokenizer.train_sentencepiece(sample, vocab_size=2000, exact=False)
    examples = TrainExamples(
        source,
        tokenizer=sentencepiece_tokenizer.SentencePieceTokenizer(model, context_length=77),
        image_size=IMAGE_SIZE,
        seed=0,
    )
    for batch, _ in loader.train_batches(
        examples, start=0, batch_size=BATCH, num_workers=workers, num_threads=1
    ):
        yield batch["image"]


def open_clip_batches(folder, *, workers):
    import open_clip
    import torch
    from open_clip_train.data import get_wds_dataset

    torch.set_num_threads(1)
    shards = sorted(pathlib.Path(folder).glob("*.tar"))
    arguments = argparse.Namespace(
        train_data=f"{folder}/{{00000..{len(shards) - 1:05d}}}.tar",
        train_num_samples=10_000_000,
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        batch_size=BATCH,
        workers=workers,
        world_size=1,
        seed=0,
    )
    transform = open_clip.image_transform(IMAGE_SIZE, is_train=True)
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    for images, _ in get_wds_dataset(arguments, transform, True, tokenizer=tokenizer).dataloader:
        yield images


def measure(side, folder, *, workers, skip, count):
    make = clipjax_batches if side == "clipjax" else open_clip_batches
    seen = 0
    marks = []
    for images in make(folder, workers=workers):
        seen += len(images)
        if (len(marks) == 0 and seen >= skip) or seen >= skip + count:
            marks.append((seen, cpu_seconds(), time.perf_counter()))
            if len(marks) == 2:
                break
    images, cpu, wall = (end - begin for begin, end in zip(*marks, strict=True))
    print(json.dumps({"per_cpu_second": images / cpu, "per_second": images / wall}))
    sys.stdout.flush()
    os._exit(0)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--open_clip_python", required=False)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--skip", type=int, default=2000)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--side", default="", help="used inside")
    parser.add_argument("--folder", default="", help="used inside")
    given = parser.parse_args()
    if given.side:
        measure(given.side, given.folder, workers=given.workers, skip=given.skip, count=given.count)
    found = {"clipjax": [], "open_clip": []}
    with tempfile.TemporaryDirectory() as folder:
        write_shards(folder, shards=8, images=500)
        pythons = {"clipjax": sys.executable, "open_clip": given.open_clip_python}
        for _ in range(given.pairs):
            for side, python in pythons.items():
                options = [f"--{n}={getattr(given, n)}" for n in ("workers", "skip", "count")]
                ended = subprocess.run(
                    [python, __file__, f"--side={side}", f"--folder={folder}", *options],
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                )
                found[side].append(json.loads(ended.stdout.splitlines()[-1]))
                print(side, found[side][-1], flush=True)
    medians = {
        side: {key: statistics.median(one[key] for one in ones) for key in ones[0]}
        for side, ones in found.items()
    }
    ratios = {
        key: statistics.median(
            ours[key] / theirs[key] for ours, theirs in zip(*found.values(), strict=True)
        )
        for key in ("per_cpu_second", "per_second")
    }
    print(json.dumps({"workers": given.workers, "median": medians, "clipjax / open_clip": ratios}))


if __name__ == "__main__":
    main()
