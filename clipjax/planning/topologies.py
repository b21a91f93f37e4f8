"""TPU slices by name, present or not: `plan` compiles for the devices that `devices` describes.

Names are Google's accelerator types (v5litepod-256, v6e-64; v4-…, v5p-… and tpu7x-… count cores,
two a chip), the alias v5e-256, or a shape, v5p:4x8x8. Shapes of the types: Google Cloud's "TPU v4",
"v5e", "v5p", "v6e" and "TPU7x" pages. Importing this module imports neither jax nor libtpu.
"""

import dataclasses
import importlib.metadata
import importlib.util
import math
import os
import re
from collections.abc import Iterable
from typing import Any

from clipjax.common.exits import ConfigError
from clipjax.common.registry import closest
from clipjax.planning import kernel_schedules

FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
DEEP = (
    *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
    *("8x8x16", "8x16x16", "16x16x16", "16x16x24"),
)
SHAPES = {"v4": DEEP[:10], "v5e": FLAT, "v5p": DEEP, "v6e": FLAT, "tpu7x": DEEP}
COUNT_CORES = ("v4", "v5p", "tpu7x")  # two a chip
PREFIXES = {"v5litepod": "v5e", "v5lite": "v5e", "v7x": "tpu7x"}
# Without it a v4 chip is listed as two devices; the cores of later chips are fused anyway.
OPTIONS: dict[str, dict[str, Any]] = {"v4": {"chip_config_name": "megacore"}}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A kind of TPU and a shape of chips.

    Attributes:
      asked: the name as the user wrote it.
      kind: a name of `accelerators.ACCELERATORS`.
      shape: chips along each axis, "16x16".
    """

    asked: str
    kind: str
    shape: str

    @property
    def chips(self) -> int:
        """Chips in one slice."""
        return math.prod(int(side) for side in self.shape.split("x"))

    @property
    def name(self) -> str:
        """The name that jax takes."""
        return f"{self.kind}:{self.shape}"


def known_names() -> dict[str, Topology]:
    """Every accelerator type, under its own name."""
    names = {}
    for kind, shapes in SHAPES.items():
        prefix = "v5litepod" if kind == "v5e" else kind
        for shape in shapes:
            topology = Topology("", kind, shape)
            number = topology.chips * (2 if kind in COUNT_CORES else 1)
            names[f"{prefix}-{number}"] = dataclasses.replace(topology, asked=f"{prefix}-{number}")
    return names


def find(name: str) -> Topology:
    """The topology called `name`.

    Raises:
      ConfigError: no such kind or size; names the closest that exists and all of the same kind.
    """
    names = known_names()
    kind, separator, size = name.strip().lower().replace(":", "-", 1).partition("-")
    kind = PREFIXES.get(kind, kind)
    if kind not in SHAPES or not separator:
        raise ConfigError(
            f"--topology={name}: unknown{closest(name, names)}; write an accelerator type such as"
            f" v5litepod-256, v6e-64, v4-128, v5p-512 or a shape such as v5e:16x16; kinds:"
            f" {', '.join(SHAPES)}"
        )
    of_kind = {known: topology for known, topology in names.items() if topology.kind == kind}
    if re.fullmatch(r"\d+(x\d+){1,2}", size):
        if len(size.split("x")) != len(SHAPES[kind][0].split("x")) or "0" in size.split("x"):
            raise ConfigError(
                f"--topology={name}: {kind} slices are shaped like {SHAPES[kind][3]};"
                f" known: {', '.join(f'{kind}:{shape}' for shape in SHAPES[kind])}"
            )
        return Topology(name, kind, size)
    for known, topology in of_kind.items():
        if known.rpartition("-")[2] == size:
            return dataclasses.replace(topology, asked=name)
    raise ConfigError(
        f"--topology={name}: unknown{_nearest(size, of_kind)};"
        f" known: {', '.join(of_kind)}, or a shape such as {kind}:{SHAPES[kind][3]}"
    )


def _nearest(size: str, names: Iterable[str]) -> str:
    if not size.isdigit() or size == "0":
        return ""
    near = min(names, key=lambda n: abs(math.log(int(n.rpartition("-")[2]) / int(size))))
    return f' (did you mean "{near}"?)'


def check_compiler() -> str:
    """The version of libtpu; ConfigError naming the extra if it is not installed."""
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(
            "planning needs the TPU compiler, the package libtpu:"
            " pip install 'clipjax[plan]' (Linux only; no TPU is needed)"
        )
    return importlib.metadata.version("libtpu")


def prepare_environment(dump_folder: str = "") -> None:
    """Set what libtpu reads when it loads; call before anything imports jax.

    Without it libtpu asks the cloud's metadata server which machine it is on, and waits. The
    accelerator type is only there to answer that question; the topology decides.

    Args:
      dump_folder: where the compiler writes the programs of its operations; "" writes none.
    """
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ["TPU_ACCELERATOR_TYPE"] = "v5litepod-16"
    os.environ["TPU_WORKER_HOSTNAMES"] = "localhost"
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # what is not compiled leaves no dump
    if dump_folder:
        flags = os.environ.get("LIBTPU_INIT_ARGS", "")
        os.environ["LIBTPU_INIT_ARGS"] = (
            f"{flags} {kernel_schedules.dump_flags(dump_folder)}".strip()
        )


def devices(topology: Topology, *, num_slices: int = 1) -> list[Any]:
    """Descriptions of the devices of `num_slices` slices, fit for a mesh and for compiling.

    Raises:
      ConfigError: the TPU compiler refuses the shape; with its reason.
    """
    from jax.experimental import topologies

    options = dict(OPTIONS.get(topology.kind, {}))
    if num_slices > 1:
        options["num_slices"] = num_slices
    if topology.chips == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        description = topologies.get_topology_desc(
            platform="tpu", topology_name=topology.name, **options
        )
    except Exception as error:  # whatever libtpu raises, it is about the shape
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"--topology={topology.asked}: the TPU compiler refuses {topology.name}: {reason}"
        ) from error
    return list(description.devices)
