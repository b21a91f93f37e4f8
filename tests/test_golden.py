"""Every config written out, reviewed as text: what it changes of the defaults, and its parameters.

JAX_PLATFORMS=cpu python tests/test_golden.py      # write tests/golden anew, then read the diff

`base.txt` holds all defaults, each other file what its config sets otherwise, so that a new default
touches one file. Parameters of equal shape, sharding and decay that differ by their block alone are
one line.
"""

import collections
import os
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden"
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


def base() -> str:
    """The golden text of the defaults."""
    from clipjax import config

    return "\n".join(["# the defaults", *settings(config.defaults())]) + "\n"


def dump(name: str) -> str:
    """The golden text of a config, its shardings on 2 × 4 devices."""
    from clipjax import config

    c, defaults = load(name), settings(config.defaults())
    own = settings(c)
    lines = [f"# {name}: settings that differ from base.txt"]
    lines += [line for line in own if line not in defaults]
    keys = [line.split(" = ")[0] for line in own]
    missing = [line.split(" = ")[0] for line in defaults]
    lines += [f"{key} is not there" for key in missing if key not in keys]
    lines += ["", "# parameters: name, shape, sharding on data=2 × fsdp=4, decay, number of blocks"]
    groups = collections.Counter(re.sub(r"(block|stage)_\d+", r"\1_*", p) for p in parameters(c))
    lines += [f"{line} × {count}" if count > 1 else line for line, count in groups.items()]
    return "\n".join(lines) + "\n"


def settings(c) -> list[str]:
    """A line for each setting, in the order of their names."""
    from clipjax import config

    marks = {True: " (operational)", False: ""}
    flat = sorted(config.flatten(c).items())
    return [f"{key} = {value!r}{marks[config.is_operational(key)]}" for key, value in flat]


def parameters(c) -> list[str]:
    """A line for each parameter, in the order of the tree."""
    import jax

    from clipjax.build import model as build_model
    from clipjax.common import trees
    from clipjax.models import clip
    from clipjax.parallel import mesh as meshes
    from clipjax.parallel import sharding

    mesh = meshes.make_mesh({"data": 2, "fsdp": 4, "tensor": 1})
    module = build_model.model(c, mesh=mesh)
    params = jax.eval_shape(clip.initialise(module), jax.random.key(0))["params"]
    placed = sharding.shardings(params, mesh=mesh, rules=c.sharding_rules)
    lines = []
    for (path, leaf), (_, where) in zip(
        trees.named_leaves(params), trees.named_leaves(placed), strict=True
    ):
        decay = trees.first_match(path, rules=c.optimizer.decay_factors, where="")
        axes = ", ".join(str(axis) for axis in where.spec)
        lines.append(f"{path} {leaf.dtype}{list(leaf.shape)} [{axes}] decay {decay}")
    return lines


def load(name):
    """The config of a file in configs/."""
    import runpy

    return runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"]()


def pytest_generate_tests(metafunc):
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", NAMES)


def test_golden(name):
    wanted = (GOLDEN / f"{name}.txt").read_text()
    assert dump(name) == wanted, "if this is meant, run: python tests/test_golden.py"


def test_golden_defaults():
    wanted = (GOLDEN / "base.txt").read_text()
    assert base() == wanted, "if this is meant, run: python tests/test_golden.py"


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT)]
    from tests import devices

    os.environ |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": devices.xla_flags(8)}
    from clipjax.parallel import distributed

    distributed.initialize()
    (GOLDEN / "base.txt").write_text(base())
    for name in NAMES:
        (GOLDEN / f"{name}.txt").write_text(dump(name))
        print(f"tests/golden/{name}.txt")
