"""Prints the parity table: our features against other programs', on the same random weights.

    PYTHONPATH=. JAX_PLATFORMS=cpu python tests/bench/parity_table.py [CASE …]

in an environment with `.[test,interop]`. Float32, three images and captions a model.
"""

import pathlib
import sys
import tempfile

from tests.weights import parity, vocabulary


def main(names: list[str]) -> None:
    print("| model | direction | image features | text features | logits |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        spiece = vocabulary.t5_like(pathlib.Path(folder))
        for name in names or parity.CASES:
            with tempfile.TemporaryDirectory() as root:
                for row in parity.CASES[name](pathlib.Path(root), spiece):
                    print(
                        f"| {row.model} | {row.direction} | {row.image:.1e} | {row.text:.1e} |"
                        f" {row.logits:.1e} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main(sys.argv[1:])
