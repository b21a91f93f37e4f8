"""Seconds and peak memory of converting a ViT-L/14-sized file, random, 1.7 GB in float32.

    PYTHONPATH=. JAX_PLATFORMS=cpu python tests/bench/convert_vitl14.py

Memory is the largest resident set of the program that converts (VmHWM): Python, its libraries and
mapped pages included. Once more from a float16 file, as OpenAI's are; a clipjax checkpoint is
float32 whatever it is made of.
"""

import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
from safetensors import numpy as safetensors_numpy

from clipjax.models import zoo
from clipjax.weights import arrays, files, open_clip, openai
from tests.weights import small

MEASURED = """
import sys
from clipjax import convert
convert.convert(sys.argv[1], to=sys.argv[2], output=sys.argv[3], tokenizer=sys.argv[4])
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


def main() -> None:
    model = zoo.get("ViT-L/14")
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        source = root / "model.safetensors"
        tensors = arrays.Written(small.params(model), layout=openai.layout(model))
        files.write_safetensors(source, tensors)
        config = open_clip.config_of(model, own_tokenizer=False)
        files.write_json(root / open_clip.CONFIG, config)
        whole = source.stat().st_size
        half = to_half(tensors, root / "half.safetensors")
        del tensors
        merges = root / "merges"
        symbols = [f"{a} {b}" for a in map(chr, range(97, 123)) for b in map(chr, range(97, 123))]
        pairs = [*symbols, *(f"{s.replace(' ', '')} {t}" for s in symbols for t in "abcdefghij")]
        pairs += [f"{s.replace(' ', '')} {t.replace(' ', '')}" for s in symbols for t in symbols]
        merges.write_text("\n".join(["header", *pairs[:48_894]]))
        for place in (source, root / f"clipjax of {source.name}", half):
            for to in ("huggingface", "open_clip", "clipjax"):
                output = root / f"{to} of {place.name}"
                began = time.time()
                peak = peak_of(place, to, output, merges)
                seconds = time.time() - began
                size = half.stat().st_size if place == half and to != "clipjax" else whole
                print(
                    f"{output.name}: {seconds:.0f} s, peak {peak / 2**30:.2f} GiB for"
                    f" {size / 2**30:.2f} GiB of weights, {peak / size:.2f} ×",
                    flush=True,
                )


def to_half(tensors: arrays.Tensors, file: pathlib.Path) -> pathlib.Path:
    """The same in float16, written as `file`."""
    made = {name: tensors.read(name).astype(np.float16) for name in tensors.shapes}
    safetensors_numpy.save_file({k: np.ascontiguousarray(v) for k, v in made.items()}, file)
    return file


def peak_of(*arguments: object) -> int:
    """Bytes that a conversion took."""
    program = [sys.executable, "-c", MEASURED, *map(str, arguments)]
    done = subprocess.run(program, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1]) * 1024


if __name__ == "__main__":
    main()
