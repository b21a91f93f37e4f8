"""Seconds and peak memory of converting a ViT-L/14-sized file, 1.7 GB of random float32.

    PYTHONPATH=.:tests/weights JAX_PLATFORMS=cpu python tests/bench/convert_vitl14.py

Memory is the resident set's peak of the program that converts, the file's mapped pages included.
"""

import pathlib
import subprocess
import sys
import tempfile
import time

import small

from clipjax.models import zoo
from clipjax.weights import arrays, files, openai

MEASURED = """
import resource, sys
from clipjax import convert
print(convert.convert(sys.argv[1], to=sys.argv[2], output=sys.argv[3], tokenizer=sys.argv[4]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def main() -> None:
    model = zoo.get("ViT-L/14")
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        source = root / "model.safetensors"
        tensors = arrays.write(small.params(model), layout=openai.layout(model))
        files.write_safetensors(source, tensors)
        del tensors
        size = source.stat().st_size
        merges = root / "merges"
        symbols = [f"{a} {b}" for a in map(chr, range(97, 123)) for b in map(chr, range(97, 123))]
        pairs = [*symbols, *(f"{s.replace(' ', '')} {t}" for s in symbols for t in "abcdefghij")]
        pairs += [f"{s.replace(' ', '')} {t.replace(' ', '')}" for s in symbols for t in symbols]
        merges.write_text("\n".join(["header", *pairs[:48_894]]))
        for to in ("huggingface", "open_clip", "clipjax"):
            began = time.time()
            done = subprocess.run(
                [sys.executable, "-c", MEASURED, source, to, root / to, merges],
                check=True,
                capture_output=True,
                text=True,
            )
            peak = int(done.stdout.split()[-1]) * 1024
            print(
                f"{to}: {time.time() - began:.0f} s, peak {peak / 2**30:.2f} GiB for a file of"
                f" {size / 2**30:.2f} GiB, {peak / size:.2f} ×",
                flush=True,
            )


if __name__ == "__main__":
    main()
