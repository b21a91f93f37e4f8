"""A conversion holds a model once and little besides: at most twice its file, whichever way.

Of two files the larger counts: a half-precision source makes a float32 checkpoint twice its size.
"""

import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from clipjax.weights import arrays, files, open_clip, openai
from tests.weights import small

pytestmark = pytest.mark.slow
LARGEST = 2.0  # times the file
# 575 MiB; the largest array, of stacked layers, a fifth.
MODEL = small.model(
    embed_dim=512,
    vision={"width": 768, "layers": 14, "patch_size": 16, "image_size": 224},
    text={"width": 768, "heads": 12, "layers": 7, "vocab_size": 520},
)
CONVERT = """
import pathlib, sys
import jax, orbax.checkpoint
from clipjax import convert
from clipjax.build import pretrained
from clipjax.weights import formats

def resident(key):
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split(key + ":")[1].split()[0]) * 1024

jax.numpy.zeros(1).block_until_ready()
before = resident("VmRSS")
convert.convert(sys.argv[1], to=sys.argv[2], output=sys.argv[3])
print(resident("VmHWM") - before)
"""
STATUS = pathlib.Path("/proc/self/status")


class Half:
    """`arrays.Tensors` whose matrices are float16, as released."""

    def __init__(self, tensors):
        self.tensors, self.shapes = tensors, tensors.shapes
        self.dtypes = {
            name: np.dtype(np.float16 if len(shape) > 1 else np.float32)
            for name, shape in tensors.shapes.items()
        }

    def read(self, name):
        return self.tensors.read(name).astype(self.dtypes[name])


@pytest.mark.skipif(not STATUS.exists(), reason="only Linux tells")
@pytest.mark.parametrize("kind", [lambda tensors: tensors, Half], ids=["float32", "half"])
def test_at_most_twice_the_file(kind, tmp_path):
    (tmp_path / "clip_merges.txt").write_bytes(small.MERGES)
    files.write_json(tmp_path / open_clip.CONFIG, open_clip.config_of(MODEL, own_tokenizer=True))
    source = tmp_path / "released.safetensors"
    tensors = arrays.Written(small.params(MODEL), layout=openai.layout(MODEL))
    files.write_safetensors(source, kind(tensors))
    whole = 4 * sum(math.prod(shape) for shape in tensors.shapes.values())
    del tensors
    foreign = source.stat().st_size
    for i, to in enumerate(("open_clip", "huggingface", "clipjax", "open_clip")):
        target = tmp_path / f"{i}"
        took = bytes_taken(source, to, target)
        size = foreign if i < 2 else whole  # a checkpoint's, before it was compressed
        print(f"{source.name} to {to}: {took / size:.2f} times the larger file")
        assert size < took <= LARGEST * size
        source = target


def bytes_taken(source, to, output):
    """By which the resident set of a program that converts was largest, mapped pages included."""
    program = [sys.executable, "-c", CONVERT, source, to, output]
    done = subprocess.run(program, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])
