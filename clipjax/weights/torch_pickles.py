"""Files that only PyTorch reads, made safetensors by a program of its own, before clipjax looks.

Reading a pickle or a TorchScript archive may run its author's code. The program has no credentials
in its environment and its crash is not ours, but it is no cage: what it runs can do what you can.
"""

import os
import pathlib
import re
import subprocess
import sys

SECONDS = 3600
MARK = "token_embedding.weight"  # how a name ends in every CLIP's state dict
NOT_ALLOWED = re.compile(r"GLOBAL (\S+) was not an allowed global")
NOT_WRITTEN = 74  # exit code
SAVE = "where it was made, torch.save(model.state_dict(), 'weights.pt')"


def make_safe(source: str | os.PathLike[str], folder: pathlib.Path) -> list[pathlib.Path]:
    """The pickles at a path, a file or a folder that holds no safetensors, written to `folder` as
    safetensors; errors as below."""
    from clipjax.common.exits import DataError
    from clipjax.weights import weight_files

    try:
        pickles = weight_files.pickles(pathlib.Path(source))
    except DataError as error:
        raise DataError(f"{source}: {error}") from None
    written = []
    for pickled in pickles:
        written.append(folder / f"{len(written)}.safetensors")
        to_safetensors(pickled, written[-1])
    return written


def to_safetensors(source: str | os.PathLike[str], target: pathlib.Path) -> None:
    """Read `source`, a TorchScript archive or a checkpoint of tensors, and write `target`.

    All of its dictionaries that hold a CLIP are written, or the whole, which may be a part of one;
    an array's name begins with its dictionary's: "state_dict/visual.proj".

    Raises:
      ConfigError: PyTorch is not installed.
      DataError: it holds no state dict of a CLIP; says what went wrong.
      WriteError: `target` cannot be written.
    """
    from clipjax.common.exits import ConfigError, DataError, WriteError

    kept = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH") if key in os.environ}
    try:
        done = subprocess.run(
            [sys.executable, "-I", __file__, os.path.abspath(source), str(target)],
            env=kept,
            cwd=target.parent,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise DataError(f"{source}: not read within {SECONDS} seconds") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1].strip()[:200] if lines else f"PyTorch ended with {done.returncode}"
        if done.returncode == NOT_WRITTEN:
            raise WriteError(
                f"{target}: cannot be written: {reason}; make room there, or set TMPDIR"
            )
        if "No module named 'torch'" in reason:
            raise ConfigError(f"{source}: only PyTorch reads it; pip install torch")
        if named := NOT_ALLOWED.search(done.stderr):
            reason = f"holds Python objects ({named[1]}), not tensors alone; {SAVE}"
        raise DataError(f"{source}: {reason}")


def _main(source: str, target: str) -> None:
    import torch  # pyright: ignore
    from safetensors.torch import save_file

    try:
        content = torch.jit.load(source, map_location="cpu").state_dict()
    except RuntimeError:  # no TorchScript
        content = torch.load(source, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        sys.exit(f"holds no state dict, but {type(content).__name__}; {SAVE}")
    tensors = {}
    for path, dictionary in _state_dicts(content) or [("", content)]:
        for name in [name for name in dictionary if isinstance(name, str)]:
            value = dictionary.pop(name)  # each goes when its copy is there
            if isinstance(value, torch.Tensor):
                tensors[path + name] = value.detach().clone().contiguous()
    if not tensors:
        sys.exit(f"holds no tensors by name; {SAVE}")
    try:
        save_file(tensors, target)
    except Exception as error:
        print(error, file=sys.stderr)
        sys.exit(NOT_WRITTEN)


def _state_dicts(content: object, path: str = "") -> list[tuple[str, dict]]:
    """(path, dictionary) of all that hold a CLIP, however deep; the inner ones first."""
    if not isinstance(content, dict):
        return []
    names = [name for name in content if isinstance(name, str)]
    inner = [one for name in names for one in _state_dicts(content[name], f"{path}{name}/")]
    return inner + [(path, content)] * any(name.endswith(MARK) for name in names)


if __name__ == "__main__":
    _main(*sys.argv[1:])
