"""A conversion holds a model once and little besides: at most twice its file, whichever way."""

import pathlib
import subprocess
import sys

import pytest
import small

from clipjax.weights import arrays, files, openai

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
from clipjax import convert, pretrained
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


@pytest.mark.skipif(not STATUS.exists(), reason="only Linux tells")
def test_at_most_twice_the_file(tmp_path):
    (tmp_path / "clip_merges.txt").write_bytes(small.MERGES)
    source = tmp_path / "released.safetensors"
    tensors = arrays.Written(small.params(MODEL), layout=openai.layout(MODEL))
    files.write_safetensors(source, tensors)
    for i, to in enumerate(("open_clip", "huggingface", "clipjax", "open_clip")):
        took, size = bytes_taken(source, to, tmp_path / f"{i}"), tensors.size
        print(f"{source.name} to {to}: {took / size:.2f} times the file")
        assert size < took <= LARGEST * size
        source = tmp_path / f"{i}"


def bytes_taken(source, to, output):
    """By which the resident set of a program that converts was largest, mapped pages included."""
    program = [sys.executable, "-c", CONVERT, source, to, output]
    done = subprocess.run(program, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])
