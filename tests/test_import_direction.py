"""Which folder may import which: only from folders below it."""

import ast
import pathlib

import pytest

import clipjax

ROOT = pathlib.Path(clipjax.__file__).parent
ORDER = (  # top to bottom; names on one line may import each other
    ("main", "train", "evaluate", "plan", "convert", "dataset", "verify", "overlap", "compare"),
    ("run",),
    ("api",),
    ("planning",),
    ("build",),
    ("config",),
    ("evals",),
    ("weights",),
    ("training",),
    ("curation",),
    ("data",),
    ("models",),
    ("losses",),
    ("optim",),
    ("parallel",),
    ("pictures",),
    ("common",),
)
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}


def modules():
    """All but `clipjax.configs`, which an installed wheel has here."""
    ours = (path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")
    return [path for path in ours if ROOT / "configs" not in path.parents]


def part(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: pathlib.Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    parts = {name.split(".")[1] for name in found if name.startswith("clipjax.")}
    return parts - {"__version__"}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_point_down(path):
    mine = part(path)
    for other in imported(path) - {mine}:
        assert LEVEL[other] >= LEVEL[mine], f"{path} imports clipjax.{other}, which is above it"


def test_a_wrong_arrow_would_be_seen(tmp_path):
    file = tmp_path / "x.py"
    file.write_text("from clipjax.training import step\nimport clipjax.build\n")
    assert imported(file) == {"training", "build"}


def test_modules_are_small():
    """One idea each: usually under 300 lines, and never over 450."""
    for path in modules():
        assert len(path.read_text().splitlines()) <= 450, path
    assert len((ROOT / "train.py").read_text().splitlines()) < 250


def test_importing_clipjax_is_light():
    import subprocess
    import sys

    code = (
        "import sys, clipjax, clipjax.config, clipjax.config.check;"
        "assert not {'jax', 'numpy'} & set(sys.modules), 'heavy'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
