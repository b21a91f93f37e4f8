"""The text of a compiled program from files that the compiler writes on request.

`compiled.as_text()` gives the same, but not for chips of two cores: there jax 0.10.2 fails on the
compiler's asynchronous instructions. Called by `planning.py`.
"""

import glob
import os


def dump_options(folder: str) -> dict[str, str | bool]:
    """Compiler options that make it write to `folder`; none if that is empty."""
    if not folder:
        return {}
    return {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}


def read_text(folder: str) -> str:
    """The largest program's text after code generation, which carries the estimates; "" if none."""
    files = glob.glob(os.path.join(folder, "*.after_codegen.txt")) if folder else []
    if not files:
        return ""
    with open(max(files, key=os.path.getsize), encoding="utf-8", errors="replace") as stream:
        return stream.read()
