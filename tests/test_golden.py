"""Every config written out: settings, parameters with shape, sharding and decay; reviewed as text.

JAX_PLATFORMS=cpu python tests/test_golden.py      # write tests/golden anew, then read the diff
"""

import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden"
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


def dump(name: str) -> str:
    """The golden text of a config, its shardings on 2 × 4 devices."""
    import jax

    from clipjax import build_model, config
    from clipjax.common import trees
    from clipjax.models import clip
    from clipjax.parallel import mesh as meshes
    from clipjax.parallel import sharding

    c = _load(name)
    mesh = meshes.make_mesh({"data": 2, "fsdp": 4, "tensor": 1})
    module = build_model.model(c, mesh=mesh)
    params = jax.eval_shape(clip.initialise(module), jax.random.key(0))["params"]
    placed = sharding.shardings(params, mesh=mesh, rules=c.sharding_rules)
    lines = [f"# {name}: settings"]
    for key, value in sorted(config.flatten(c).items()):
        mark = " (operational)" if config.is_operational(key) else ""
        lines.append(f"{key} = {value!r}{mark}")
    lines += ["", "# parameters: name, shape, sharding on data=2 × fsdp=4, decay"]
    for (path, leaf), (_, where) in zip(
        trees.named_leaves(params), trees.named_leaves(placed), strict=True
    ):
        decay = trees.first_match(path, rules=c.optimizer.decay_factors, where="")
        axes = ", ".join(str(axis) for axis in where.spec)
        lines.append(f"{path} {leaf.dtype}{list(leaf.shape)} [{axes}] decay {decay}")
    return "\n".join(lines) + "\n"


def _load(name):
    import runpy

    return runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"]()


def pytest_generate_tests(metafunc):
    metafunc.parametrize("name", NAMES)


def test_golden(name):
    wanted = (GOLDEN / f"{name}.txt").read_text()
    assert dump(name) == wanted, "if this is meant, run: python tests/test_golden.py"


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import devices

    os.environ |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": devices.xla_flags(8)}
    from clipjax.parallel import distributed

    distributed.initialize()
    for name in NAMES:
        (GOLDEN / f"{name}.txt").write_text(dump(name))
        print(f"tests/golden/{name}.txt")
