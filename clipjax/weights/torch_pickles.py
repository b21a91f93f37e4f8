"""Files that only PyTorch reads, made safetensors by a program of its own, before clipjax looks.

Reading a pickle or a TorchScript archive may run its author's code. The program has no credentials
in its environment and its crash is not ours, but it is no cage: what it runs can do what you can.
"""

import os
import pathlib
import subprocess
import sys

PREFIXES = ("module.", "_orig_mod.")  # that training in parallel and torch.compile leave in names
SECONDS = 3600


def to_safetensors(source: str | os.PathLike[str], target: pathlib.Path) -> None:
    """Read `source`, a TorchScript archive or a checkpoint of tensors, and write `target`.

    Raises:
      ConfigError: PyTorch is not installed.
      DataError: it holds no state dict; names the last line of what went wrong.
    """
    from clipjax.common.exits import ConfigError, DataError

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
        if "No module named 'torch'" in reason:
            raise ConfigError(f"{source}: only PyTorch reads it; pip install torch")
        raise DataError(f"{source}: {reason}")


def _main(source: str, target: str) -> None:
    import torch  # pyright: ignore
    from safetensors.torch import save_file

    try:
        found = torch.jit.load(source, map_location="cpu").state_dict()
    except RuntimeError:  # no TorchScript
        found = torch.load(source, map_location="cpu", weights_only=True)
    found = found.get("state_dict", found)
    tensors = {}
    for name in list(found):
        value = found.pop(name)  # each goes when its copy is there
        while name.startswith(PREFIXES):
            name = name.split(".", 1)[1]
        if isinstance(value, torch.Tensor):
            tensors[name] = value.detach().clone().contiguous()
    save_file(tensors, target)


if __name__ == "__main__":
    _main(*sys.argv[1:])
