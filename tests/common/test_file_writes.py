"""Every program writes through `common/files.py`: no other module makes, changes or removes files.

What a library writes by itself (orbax, TensorBoard's profiler, TFDS, array_record, wandb) is called
within `files.errors`, `files.as_local` or what its caller turns into a line.
"""

import ast

import pytest

from tests.test_import_direction import ROOT, modules

HOME = ROOT / "common" / "files.py"
EXCEPT = {  # module → the calls that it makes itself, and why
    "common/streams.py": {"os.open", "open"},  # of the null device, and of standard streams
    "data/sources/shard_files.py": {"os.open"},  # to read
    "weights/torch_pickles.py": {"save_file"},  # a program of its own, without clipjax
}
METHODS = {  # of paths, whatever holds them
    *("write_text", "write_bytes", "mkdir", "makedirs", "rename", "renames", "touch", "unlink"),
    *("rmtree", "rmdir", "savefig", "save_file", "tofile", "symlink_to", "hardlink_to", "mkdtemp"),
    *("mkstemp", "copyfile", "copytree", "copy2", "TemporaryDirectory", "NamedTemporaryFile"),
    *("savez", "savez_compressed", "savetxt", "memmap_to"),
}
FUNCTIONS = {  # whose names mean something else elsewhere
    *("os.open", "os.replace", "os.remove", "os.symlink", "os.link", "os.truncate", "os.mkfifo"),
    *("shutil.copy", "shutil.move", "np.save", "numpy.save", "torch.save"),
}


def writes(tree: ast.AST) -> list[str]:
    """The calls of a module that change files, by name."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return [name for call in calls if (name := written_by(call))]


def written_by(call: ast.Call) -> str:
    """The name of a call that changes files; "" of any other."""
    whole = ast.unparse(call.func)
    name = whole.rpartition(".")[2]
    if whole.startswith("files."):
        return ""
    if name in ("open", "fdopen") and set("wax+") & set(_mode(call, whole)):
        return "open"
    if whole in FUNCTIONS:
        return whole
    one = len(call.args) == 1 and not call.keywords  # a string's `replace` takes two
    is_path = name == "replace" and one and whole != "dataclasses.replace"
    return name if name in METHODS or is_path else ""


def _mode(call: ast.Call, whole: str) -> str:
    place = 1 if whole in ("open", "io.open", "gzip.open", "os.fdopen") else 0
    given = [word.value for word in call.keywords if word.arg == "mode"] + call.args[place:][:1]
    texts = [node.value for node in given if isinstance(node, ast.Constant)]
    return next((text for text in texts if isinstance(text, str) and len(text) <= 3), "")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_written_past_the_one_module(path):
    name = str(path.relative_to(ROOT))
    found = set(writes(ast.parse(path.read_text())))
    if path == HOME:
        assert {"open", "mkdir", "unlink", "os.replace"} <= found
    else:
        assert found == EXCEPT.get(name, set()), f"{name}: write through common/files.py"


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("open(p, 'w')", "open"),
        ("open(p, mode='ab')", "open"),
        ("p.open('wb')", "open"),
        ("os.fdopen(n, 'r+')", "open"),
        ("folder.joinpath('x').write_text('')", "write_text"),
        ("os.replace(a, b)", "os.replace"),
        ("a.replace(b)", "replace"),
        ("(folder / 'x').rename(b)", "rename"),
        ("np.savez(p, **arrays)", "savez"),
        ("shutil.rmtree(p)", "rmtree"),
        ("tempfile.TemporaryDirectory()", "TemporaryDirectory"),
        ("open(p)", ""),
        ("open(p, 'rb')", ""),
        ("p.open('rb')", ""),
        ("archive.open(name + '.tar')", ""),
        ("a.replace('wa', 'b')", ""),
        ("dataclasses.replace(a)", ""),
        ("names.remove(x)", ""),
        ("files.move(a, b)", ""),
    ],
)
def test_what_changes_files_is_seen(line, name):
    assert writes(ast.parse(line)) == ([name] if name else [])
