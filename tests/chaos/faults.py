"""Configs with a fault built in, for processes of their own: a file of settings is Python."""

import pathlib
import textwrap

from tests import processes

HEAD = """
import os, sys, threading, time
sys.path.insert(0, {root!r})
from tests import tiny
HOST = os.environ.get("CLIPJAX_PROCESS_ID", "0")

def get_config():
    c = tiny.tiny(total="5000 steps")
    {settings}
    {fault}
    return c
"""


def while_decoding(name: str, *, host: str, does: str, indent: str = "    ") -> str:
    """A fault of one host: after 200 images, function `name` `does` something in decoding."""
    lines = f"""
        from clipjax.data import images
        decode, made = images.decode_train, []
        def {name}(*arguments, **settings):
            made.append(1)
            if HOST == {host!r} and len(made) > 200:
                {does}
            return decode(*arguments, **settings)
        images.decode_train = {name}
    """
    return textwrap.indent(textwrap.dedent(lines), indent)


STUCK_LOADER = while_decoding("stuck", host="1", does="time.sleep(10_000)")
# Travels to the workers by value, as the settings' file is read by their parent alone.
STUCK_WORKER = f"""
    from clipjax.data import loader
    start = loader.start_worker
    def start_and_get_stuck(index, count):
        start(index, count)
{while_decoding("stuck", host="1", does="time.sleep(10_000)", indent="        ")}
    loader.start_worker = start_and_get_stuck
    c.data.num_workers = 1
"""
SLOW_EVALUATIONS = """
    from clipjax.data import images
    decode, one_at_a_time = images.decode_eval, threading.Lock()
    def slow(*arguments, **settings):
        with one_at_a_time:
            time.sleep(0.3)
        return decode(*arguments, **settings)
    images.decode_eval = slow
"""
# From the first step on, so that compiled programs, which tests share, are kept whole.
SMALL_FILES = """
    import pathlib, resource, signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    def limit():
        for file, size in (({workdir!r} + "/metrics.jsonl", 300_000), ({lift!r}, hard)):
            while not pathlib.Path(file).exists():
                time.sleep(0.02)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    if HOST in {hosts!r}:
        threading.Thread(target=limit, daemon=True).start()
"""


def config(folder: pathlib.Path, *, settings: str = "", fault: str = "", **names: object) -> str:
    """`--config=FILE` of a tiny run with a fault; `names` fill the fault's braces."""
    file = folder / "faulty.py"
    filled = fault.format(**names) if names else fault
    file.write_text(
        HEAD.format(
            root=str(processes.ROOT),
            settings=settings or "pass",
            fault=filled.strip() or "pass",
        )
    )
    return f"--config={file}"


SLOW_LOADER = """
    from clipjax.data import images
    decode, one_at_a_time = images.decode_train, threading.Lock()
    def slow(*arguments, **settings):
        if HOST == "1":
            with one_at_a_time:
                time.sleep(0.04)
        return decode(*arguments, **settings)
    images.decode_train = slow
"""
# An object store on a bad day: making, or committing, a step fails once with each of these.
FAILING_STORE = """
    from etils.epath import backend
    answers = {"20": "HTTP 503 Service Unavailable", "60": "HTTP 429", "100": "I/O error"}
    def failing(name):
        real = getattr(backend._OsPathBackend, name)
        def operation(self, path, *arguments, **settings):
            step = os.path.basename(str(path)).split(".")[0]
            if "checkpoints" in str(path) and step in answers and name == (
                "rename" if step in ("20", "100") else "makedirs"
            ):
                raise OSError(5, answers.pop(step))
            return real(self, path, *arguments, **settings)
        setattr(backend._OsPathBackend, name, operation)
    failing("makedirs")
    failing("rename")
"""
OTHER_PROGRAM = """
    import jax
    if HOST == "1":
        jax.config.update("jax_default_matmul_precision", "highest")
"""
# What is damaged, or cannot be fetched, may be a part that only one host reads.
UNREADABLE_ON_ONE = """
    import orbax.checkpoint as ocp
    reads, left = ocp.{handler}.restore, ["once"]
    def damaged(self, directory, *arguments, **settings):
        if HOST == {host!r} and directory.name == {item!r} and left:
            left.pop()
            raise ValueError("DATA_LOSS: checksum does not match")
        return reads(self, directory, *arguments, **settings)
    ocp.{handler}.restore = damaged
"""
# A disk with an I/O error wherever the lead looks for a checkpoint, from its first save on.
BROKEN_DISK = """
    from etils.epath import backend
    exists = backend._OsPathBackend.exists
    def broken(self, path):
        folder, name = os.path.split(str(path))
        if HOST == "0" and name.isdigit() and folder.endswith("checkpoints"):
            raise OSError(5, "Input/output error")
        return exists(self, path)
    backend._OsPathBackend.exists = broken
"""
