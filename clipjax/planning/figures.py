"""The figures of a plan: training's own step compiled for devices that are absent, and read.

`plan` prints them. Every figure of time is the TPU compiler's estimate, none is a measurement.
"""

import collections
import math
import re
import time
from collections.abc import Sequence
from typing import Any

import jax

from clipjax import losses
from clipjax.build import model as build_model
from clipjax.build import program as build
from clipjax.common import durations, trees
from clipjax.common.exits import CleanExit, ConfigError
from clipjax.config import Config
from clipjax.parallel.accelerators import ACCELERATORS, Accelerator
from clipjax.parallel.mesh import AXES, axis_sizes, batch_shards
from clipjax.planning import compile_memory, compiled, hlo_files, kernel_schedules
from clipjax.planning.compiled import Cost
from clipjax.planning.topologies import Topology

NOTE = "Times, cycles and memory are the TPU compiler's estimates, not measurements."

TIMES = (  # what the text of a compiled step gives; None where there is none
    *("estimated_cycles", "cycles", "estimated_step_seconds", "estimated_mfu"),
    *("estimated_mfu_low", "estimated_mfu_high", "examples_per_second", "chip_hours"),
    *("custom_kernels", "collectives", "collective_contents", "loops_of_unknown_length"),
)


def measure(
    config: Config,
    *,
    topology: Topology,
    devices: Sequence[Any],
    dump_folder: str = "",
    loss_alone: bool = True,
) -> dict[str, Any]:
    """Compile the training step of a config for absent devices, and say what it needs.

    Args:
      config: of the run; `config.num_slices` slices of `topology`. Its data are not looked at.
      topology, devices: as `topologies.find` and `topologies.devices` give them.
      dump_folder: where the compiler writes kernels' programs, see `kernel_schedules.py`; emptied.
      loss_alone: also compile the loss by itself, for `loss_temp_bytes` and its cycles.

    Returns:
      The figures by name, ready for JSON. Bytes are on one device; None where a step that does not
      fit has no figure.

    Raises:
      ConfigError: mesh, batch and devices do not go together, as in training.
      CleanExit: the compiler failed for another reason than memory.
    """
    accelerator = ACCELERATORS[topology.kind]
    mesh = build.mesh(config, devices=devices)
    total_steps, warmup_steps, examples = _run_length(config)
    program = build.program(config, mesh=mesh, total_steps=total_steps, warmup_steps=warmup_steps)
    chips = topology.chips * config.num_slices
    pair = build_model.training_flops_per_pair(config)
    available = compile_memory.available_bytes(mesh.devices.flat[0]) or accelerator.hbm_bytes
    figures: dict[str, Any] = {
        "note": NOTE,
        "topology": topology.name,
        "num_slices": config.num_slices,
        "chips": chips,
        "devices": mesh.size,
        "device_kind": accelerator.kind,
        "mesh": dict(mesh.shape),
        "model": config.model.name,
        "loss": config.loss.name,
        "remat": {tower: config.model[tower].remat for tower in ("vision", "text")},
        "batch_size": config.batch_size,
        "micro_batches": config.micro_batches,
        "per_chip_batch": config.batch_size / chips,
        "per_device_batch": config.batch_size // batch_shards(mesh),
        "parameter_count": sum(
            math.prod(leaf.shape) for _, leaf in trees.named_leaves(program.abstract_state.params)
        ),
        "hbm_available_bytes": available,
        "model_flops_per_chip": pair * config.batch_size / chips,
    }
    text_folder = f"{dump_folder}-text" if dump_folder else ""
    for folder in filter(None, (dump_folder, text_folder)):
        kernel_schedules.clear_dump(folder)
    began = time.monotonic()
    try:
        step = build.compile_step(config, program, mesh=mesh, **hlo_files.dump_options(text_folder))
    except jax.errors.JaxRuntimeError as error:
        needed, available = _overflow(error)
        figures |= {"hbm_available_bytes": available, **_does_not_fit(needed, available)}
        step = None
    figures["compile_seconds"] = time.monotonic() - began
    if step is not None:
        figures |= {
            "fits": True,
            "hbm_peak_bytes": compile_memory.peak_bytes(step.memory_analysis()),
            "hbm_overflow_bytes": 0,
            **_times(
                step,
                accelerator=accelerator,
                figures=figures,
                dump_folder=dump_folder,
                text_folder=text_folder,
            ),
        }
        speed = figures["examples_per_second"]
        figures["chip_hours"] = examples / speed / 3600 * chips if examples and speed else None
    if loss_alone and config.loss.name in losses.LOSSES:  # others are sums over the batch
        figures |= _loss(config, mesh=mesh, accelerator=accelerator, figures=figures)
    return figures


def _run_length(config: Config) -> tuple[int, int, int | None]:
    """(steps, warm-up steps, examples); without data an epoch has no length, and no run has one."""
    texts = {"config.total": config.total, "config.schedule.warmup": config.schedule.warmup}
    if any(durations.parse(text, where=key).unit == "epochs" for key, text in texts.items()):
        return 2, 1, None
    total, warmup = (
        durations.steps(text, where=key, batch_size=config.batch_size)
        for key, text in texts.items()
    )
    return total, warmup, total * config.batch_size


def _times(
    step: Any,
    *,
    accelerator: Accelerator,
    figures: dict[str, Any],
    dump_folder: str = "",
    text_folder: str = "",
) -> dict[str, Any]:
    """All that is read from the program's text; nothing but the reason where there is no text."""
    text = hlo_files.read_text(text_folder)
    try:
        text = text or step.as_text() or ""
    except jax.errors.JaxRuntimeError as error:
        reason = f"jax cannot show this program: {' '.join(str(error).split())[:200]}"
        return dict.fromkeys(TIMES) | {"no_times": reason, "limited_by": "unknown"}
    cost = compiled.read(
        text,
        accelerator=accelerator,
        devices=figures["devices"],
        num_slices=figures["num_slices"],
        schedules=kernel_schedules.read_dump(dump_folder, names=compiled.kernel_names(text)),
    )
    return _speed(cost, accelerator=accelerator, figures=figures) | _counted(cost)


def _speed(cost: Cost, *, accelerator: Accelerator, figures: dict[str, Any]) -> dict[str, Any]:
    """Times and utilisation; low and high count the custom kernels at double and at half."""
    clock, peak = accelerator.clock_hz, accelerator.peak_flops * accelerator.per_chip
    floor = figures["model_flops_per_chip"] / peak
    mfu, low, high = (
        floor * clock / (cost.total + kernels) if cost.total else None
        for kernels in (0.0, cost.kernels, -cost.kernels / 2)
    )
    seconds = cost.total / clock
    return {
        "estimated_cycles": cost.total,
        "cycles": {
            "compiler_compute": cost.compute,
            "compiler_memory": cost.memory,
            "custom_kernels": cost.kernels,
            "exposed_communication": cost.exposed,
        },
        "estimated_step_seconds": seconds,
        "estimated_mfu": mfu,
        "estimated_mfu_low": low,
        "estimated_mfu_high": high,
        "examples_per_second": figures["batch_size"] / seconds if seconds else None,
        "limited_by": cost.limit(),
    }


def _counted(cost: Cost) -> dict[str, Any]:
    """Custom kernels and transfers of one step, JSON-ready."""
    kernels: dict[tuple[int, float, str], dict[str, Any]] = {}
    for kernel, count in cost.kernel_counts.items():
        entry = kernels.setdefault(
            (kernel.body, kernel.cycles, kernel.charged),
            {"name": kernel.name, "count": 0, "cycles": kernel.cycles, "charged": kernel.charged},
        )
        entry["count"] += count
    kinds: dict[str, dict[str, float]] = collections.defaultdict(lambda: {"count": 0, "bytes": 0})
    contents: dict[tuple[str, str, bool], dict[str, Any]] = {}
    for transfer, count in cost.collective_counts.items():
        content = (transfer.kind, transfer.carries, transfer.crosses_slices)
        named = dict(zip(("kind", "carries", "crosses_slices"), content, strict=True))
        detail = contents.setdefault(content, {**named, "count": 0, "bytes": 0})
        for entry in (kinds[transfer.kind], detail):
            entry["count"] += count
            entry["bytes"] += int(count * transfer.bytes)
    details = sorted(contents.values(), key=lambda detail: -detail["bytes"])
    return {
        "custom_kernels": sorted(kernels.values(), key=lambda k: -k["count"] * k["cycles"]),
        "collectives": dict(kinds),
        "collective_contents": details,
        "loops_of_unknown_length": cost.unknown_loops,
    }


def _does_not_fit(needed: int, available: int) -> dict[str, Any]:
    return dict.fromkeys(TIMES) | {
        "fits": False,
        "hbm_peak_bytes": needed,
        "hbm_overflow_bytes": needed - available,
        "limited_by": "does not fit",
    }


def _overflow(error: Exception) -> tuple[int, int]:
    """(bytes needed, bytes available); CleanExit if the compiler failed for another reason."""
    bytes_of = compile_memory.overflow(str(error))
    if bytes_of is None:
        reason = " ".join(str(error).split())
        raise CleanExit(f"the TPU compiler failed: {reason[:400]}") from error
    return bytes_of


def _loss(
    config: Config, *, mesh: Any, accelerator: Accelerator, figures: dict[str, Any]
) -> dict[str, Any]:
    """Temporaries and cycles of the loss alone; the bytes it would need if it does not fit."""
    try:
        loss = build.compile_loss(config, mesh=mesh)
    except jax.errors.JaxRuntimeError as error:
        return {"loss_temp_bytes": _overflow(error)[0], "loss_estimated_cycles": None}
    times = _times(loss, accelerator=accelerator, figures=figures)
    return {
        "loss_temp_bytes": int(getattr(loss.memory_analysis(), "temp_size_in_bytes", 0)),
        "loss_estimated_cycles": times["estimated_cycles"],
    }


def variants(
    config: Config,
    *,
    devices: int,
    remats: Sequence[str],
    micro_batches: Sequence[int],
    meshes: Sequence[str],
) -> list[list[Config]]:
    """Configs to try, a list for each mesh and remat policy, by rising micro-batches.

    Args:
      config: the one to vary.
      devices: how many there are.
      remats: policies for both towers.
      micro_batches: counts.
      meshes: "DATAxFSDPxTENSOR", such as "1x256x1", one side may be -1; none are the config's and
        two that split the parameters over fewer devices.

    Raises:
      ConfigError: a mesh cannot be read.
    """
    groups = []
    for sizes in _meshes(meshes, devices=devices, config=config):
        for remat in remats:
            group = []
            for count in sorted(micro_batches):
                varied = config.copy_and_resolve_references()
                varied.model.vision.remat = varied.model.text.remat = remat
                varied.micro_batches = count
                varied.mesh.update(sizes)
                group.append(varied)
            groups.append(group)
    return groups


def _meshes(texts: Sequence[str], *, devices: int, config: Config) -> list[dict[str, int]]:
    """Mesh sizes to try, each once."""
    if not texts:
        usual = axis_sizes(config.mesh, devices=devices, num_slices=config.num_slices)
        fewer = [{"data": devices // n, "fsdp": n, "tensor": 1} for n in (16, 1) if n < devices]
        return [usual, *(sizes for sizes in fewer if sizes != usual)]
    tried = []
    for text in texts:
        sides = text.split("x")
        if len(sides) != len(AXES) or not all(re.fullmatch(r"-1|[1-9]\d*", s) for s in sides):
            raise ConfigError(f"--sweep_meshes: {text} is no mesh; write DATAxFSDPxTENSOR, 1x-1x1")
        tried.append(dict(zip(AXES, map(int, sides), strict=True)))
    return tried
