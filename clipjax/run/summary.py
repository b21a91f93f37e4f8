"""What a run prints before it starts: batch, parameters, sharding, steps, and where things go."""

import collections
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from clipjax import evals, losses
from clipjax.common import trees, urls
from clipjax.common.counts import counted
from clipjax.config import Config, evaluation_data
from clipjax.config import unused as unused_settings
from clipjax.config.stages import Stage
from clipjax.data import sources
from clipjax.data.sources.folder import Folder
from clipjax.evals.evaluator import Evaluator
from clipjax.optim import optimizer as optimizers
from clipjax.parallel import accelerators, sharding
from clipjax.parallel.mesh import batch_shards
from clipjax.planning import compile_memory
from clipjax.run.stage import OpenStage
from clipjax.training.forward import frozen_towers

HEADER = ("module", "parameters", "", "on each device", "split")
MOST_NAMED = 4  # frozen modules
UNSHARDED_WARNING = 0.02  # share of the state's bytes on every device
WASTE = {  # by a mesh axis that splits nothing
    "fsdp": "every device holds all of them; config.mesh.data would do the same",
    "tensor": "its devices repeat each other's work",
}


def describe(
    opened: OpenStage,
    *,
    evaluators: Mapping[str, Evaluator],
    total: int,
    start: int,
    workdir: str,
    notes: Sequence[str] = (),
) -> str:
    """The summary of a stage of a run, several lines.

    Args:
      opened: the stage.
      evaluators: by name.
      total: steps of the whole run.
      start: steps that are done.
      workdir: where the run lives.
      notes: sentences without which its figures are misread, see `batch_notes`.
    """
    stage, config, mesh, source = opened.stage, opened.config, opened.mesh, opened.source
    state, horizon = opened.program.abstract_state, opened.horizon
    progress = opened.progress(stage.last_step)
    kind = mesh.devices.flat[0].device_kind
    tower = {"vision": 0, "text": 0}
    for name, leaf in trees.named_leaves(state.params):
        head = name.split("/")[0]
        tower[head] = tower.get(head, 0) + math.prod(leaf.shape)
    examples = stage.examples(stage.last_step)
    epochs = ", ".join(
        " ".join([*name.split("/")[1:-1], f"{value:.2f} epochs"])
        for name, value in progress.items()
        if name.endswith("epochs")
    )
    whole = sharding.unsharded_fraction(state, jax.tree.map(lambda leaf: leaf.sharding, state))
    axes = " × ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    lines = [
        f"model       {config.model.name}: image {tower['vision']:,} + text {tower['text']:,} +"
        f" 1 = {sum(tower.values()):,} parameters",
        f"devices     {mesh.size} × {kind}; mesh {axes}; {devices(mesh)}",
        *_fsdp_line(config, mesh=mesh),
        batch_line(config.batch_size, mesh=mesh),
        f"state       {as_bytes(local_bytes(state))} on each device, {whole:.1%} of it unsharded",
        weights_line(config, state.params, start=start),
        f"data        {source.name}: {counted(len(source), 'record')}; {examples:,} examples ="
        f" {epochs}",
        *([f"            {source.details}"] if source.details else []),
        f"steps       {total:,} (warm-up {horizon.warmup:,}), starting at {start:,};"
        f" checkpoint every {horizon.save_every:,}, log every {horizon.log_every:,}",
        *_stage_line(stage, total=total),
        *_evaluator_lines(config, evaluators, every=horizon.evals_every),
        f"work dir    {workdir}: checkpoints/ config.json metrics.jsonl tensorboard/",
    ]
    if mesh.shape["fsdp"] > 1 and whole > UNSHARDED_WARNING:
        lines.append(
            f"warning     {whole:.1%} of the state is on every device: widths do not divide by"
            f" config.mesh.fsdp={mesh.shape['fsdp']}, or the model is very small"
        )
    lines += [f"warning     {line}" for line in unused_settings.ignored(config)]
    best = config.checkpoint.keep_best
    if best.metric.endswith("/loss") and best.mode == "max":
        lines.append("warning     config.checkpoint.keep_best.mode=max keeps the largest loss")
    lines += [
        f"warning     config.evals.{name}: {evaluator.of_data[0]}; name others by its path or split"
        for name, evaluator in evaluators.items()
        if evaluator.seen
    ]
    used = {
        axis
        for leaf in jax.tree.leaves(state)
        for part in leaf.sharding.spec
        for axis in (part if isinstance(part, tuple) else (part,))
    }
    lines += [
        f"warning     config.mesh.{axis}={mesh.shape[axis]} splits no parameter, none has a"
        f" dimension that divides by it: {waste}"
        for axis, waste in WASTE.items()
        if mesh.shape[axis] > 1 and axis not in used
    ]
    lines += [f"warning     {note}" for note in notes]
    return "\n".join([*lines, parameters(state.params)])


def _fsdp_line(config: Config, *, mesh: Mesh) -> list[str]:
    """What became of a `config.mesh.fsdp` that does not divide the devices."""
    wanted, size = config.mesh.fsdp, mesh.shape["fsdp"]
    if wanted in (-1, size):
        return []
    return [f"            fsdp={size} is what config.mesh.fsdp={wanted} and the devices share"]


def batch_notes(config: Config, *, per_batch: Mapping[str, float]) -> list[str]:
    """Sentences without which the loss and the accuracy of training are misread; mostly none.

    `per_batch` is what `TrainExamples.progress` says of as many examples as a batch has.
    """
    if config.loss.name not in losses.LOSSES:
        return []
    notes = []
    if config.batch_size == 1:
        notes.append(
            "a batch of one pair holds no other to tell it from: accuracy is 100 % and a softmax"
            " loss 0 whatever the model does; raise config.batch_size"
        )
    for name, epochs in per_batch.items():
        if name.endswith("epochs") and epochs > 1 and config.loss.duplicates == "negative":
            group = name.removesuffix("/epochs")
            pairs = per_batch.get(f"{group}/examples", config.batch_size)
            notes.append(
                f"a batch takes {pairs:,} pairs from the {round(pairs / epochs):,} records of"
                f" config.{_setting(group)}: copies of a pair count as wrong answers to each other;"
                " lower config.batch_size, or set config.loss.duplicates=mask"
            )
    return notes


def _setting(place: str) -> str:
    """The config's group of data that `TrainExamples.progress` calls "data/web"."""
    return place.replace("/", ".mixture.", 1)


def batch_line(batch_size: int, *, mesh: Mesh) -> str:
    """ "global batch 32,768 = 256 chips × 128"."""
    shards = batch_shards(mesh)
    groups = mesh.size // shards
    within = f" (each by {groups} chips together)" if groups > 1 else ""
    per_chip = f"{counted(shards, 'chip')} × {batch_size // shards:,}{within}"
    return f"batch       global batch {batch_size:,} = {per_chip}"


def weights_line(config: Config, params: Any, *, start: int) -> str:
    """ "weights     from runs/a (vision, text); frozen: vision/*, 86,192,640 parameters"."""
    origin = f"random, of seed {config.seed}"
    if start:
        origin = f"from the checkpoint of step {start:,}"
    elif config.init.weights:
        origin = f"from {config.init.weights} ({', '.join(config.init.towers)})"
    trained = optimizers.trainable(params, config.optimizer.learning_rate_factors)
    sizes = {name: math.prod(leaf.shape) for name, leaf in trees.named_leaves(params)}
    frozen = [name for name, is_trained in trees.named_leaves(trained) if not is_trained]
    if not frozen:
        return f"weights     {origin}"
    towers = frozen_towers(trained)
    modules = dict.fromkeys(
        f"{tower}/*" if (tower := name.split("/")[0]) in towers else module(name) for name in frozen
    )
    named = ", ".join([*modules][:MOST_NAMED])
    more = f" and {len(modules) - MOST_NAMED} more" if len(modules) > MOST_NAMED else ""
    count = sum(sizes[name] for name in frozen)
    return f"weights     {origin}; frozen: {named}{more}, {count:,} parameters"


def _evaluator_lines(
    config: Config, evaluators: Mapping[str, Evaluator], *, every: Mapping[str, int]
) -> list[str]:
    """What each evaluator measures on, and how often."""
    lines = []
    for name, evaluator in evaluators.items():
        data, kind = evaluation_data.settings(config, name), config.evals[name].kind
        path = [urls.shown(data.path)] if data.path else []
        part = [f"split {data.split}"] if "split" in sources.SOURCES[data.source].reads else []
        whole = evaluator.source.whole
        if isinstance(whole, Folder):  # the folder that is read may be the split
            path, part = [whole.top], []
        labels = evaluator.source.labels if evals.KINDS[kind].settings else ()
        size = counted(len(evaluator.source), "record")
        size += f" in {counted(len(labels), 'class', 'classes')}" if labels else ""
        where = ", ".join([evaluator.source.name, *path, *part])
        lines.append(
            f"evaluator   {name}: {kind} on {size} of {where}; every {every[name]:,} steps"
        )
    return lines


def _stage_line(stage: Stage, *, total: int) -> list[str]:
    """What is special of a stage; nothing in a run without stages."""
    if stage.last_step - stage.first_step == total:
        return []
    model = stage.config.model
    return [
        f"stage       {stage.name or 'last'}: steps {stage.first_step:,} to {stage.last_step:,},"
        f" images of {model.vision.image_size} pixels, texts of {model.text.context_length} tokens,"
        f" batches of {stage.config.batch_size:,}, patch dropout {stage.config.patch_dropout:g}"
    ]


def parameters(params: Any) -> str:
    """A table of abstract parameters with shardings, one row a module, blocks of a tower together.

    "split" counts the bytes by mesh axes: "fsdp 98 %, whole 2 %".
    """
    modules: dict[str, list[Any]] = collections.defaultdict(list)
    for name, leaf in trees.named_leaves(params):
        modules[module(name)].append(leaf)
    leaves = jax.tree.leaves(params)
    total = sum(math.prod(leaf.shape) for leaf in leaves)
    rows = [HEADER, *(_row(name, group, total=total) for name, group in modules.items())]
    rows.append(_row("all", leaves, total=total))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in (0, 4) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def module(name: str) -> str:
    """ "vision/blocks/attention" of "vision/block_3/attention/out/kernel" and of
    "vision/blocks/attention/out/kernel"; "vision/ln_pre" of "vision/ln_pre/scale"."""
    parts = re.sub(r"/block_\d+/", "/blocks/", name).split("/")
    return "/".join(parts[:3] if "blocks" in parts[:2] else parts[:2])


def _row(name: str, leaves: list[Any], *, total: int) -> tuple[str, ...]:
    count = sum(math.prod(leaf.shape) for leaf in leaves)
    split: dict[str, int] = collections.Counter()
    for leaf in leaves:
        axes = [axis for part in leaf.sharding.spec if part for axis in np.atleast_1d(part)]
        used = [str(axis) for axis in axes if leaf.sharding.mesh.shape[axis] > 1]
        split["+".join(used) or "whole"] += math.prod(leaf.shape) * leaf.dtype.itemsize
    whole = sum(split.values())
    shares = ", ".join(
        axes if size == whole else f"{axes} {size / whole:.0%}"
        for axes, size in sorted(split.items(), key=lambda item: -item[1])
    )
    return (name, f"{count:,}", f"{count / total:.1%}", as_bytes(local_bytes(leaves)), shares)


def plan(opened: OpenStage, compiled: jax.stages.Compiled) -> str:
    """What the compiled step needs of each device: memory by kind, and time at the peak rate."""
    sizes = compiled.memory_analysis()
    temporaries = getattr(sizes, "temp_size_in_bytes", 0)
    mesh, program = opened.mesh, opened.program
    device = mesh.local_devices[0]
    kind = accelerators.of_kind(device.device_kind)
    limit = (device.memory_stats() or {}).get("bytes_limit") or (kind.hbm_bytes if kind else 0)
    of = f" of {as_bytes(limit)}" if limit else ""
    work = opened.flops_per_pair * opened.config.batch_size / mesh.size
    line = (
        f"plan        {as_bytes(compile_memory.peak_bytes(sizes))}{of} on each device: state"
        f" {as_bytes(local_bytes(program.abstract_state))}, batch"
        f" {as_bytes(local_bytes(program.abstract_batch))}, temporaries"
        f" {as_bytes(temporaries)}; {work / 1e9:,.2f} GFLOP a step"
    )
    return line + (f", {work / kind.peak_flops:.3f} s at the peak rate" if kind else "")


def local_bytes(tree: Any) -> int:
    """Bytes of a tree of abstract arrays with shardings on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize
        for leaf in jax.tree.leaves(tree)
    )


def as_bytes(count: float) -> str:
    """ "1.5 MiB"."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def devices(mesh: Mesh) -> str:
    """The mesh's devices by process, like ones together: "processes 0-63: 4 × TPU v5 lite, 15.7
    GiB"; memory is of this process's devices, which alone can be asked."""
    by_process: dict[int, list[Any]] = collections.defaultdict(list)
    for device in mesh.devices.flat:
        by_process[device.process_index].append(device)
    limit = (mesh.local_devices[0].memory_stats() or {}).get("bytes_limit")
    memory = f", {as_bytes(limit)} each" if limit else ""
    groups: dict[str, list[int]] = collections.defaultdict(list)
    for process, own in sorted(by_process.items()):
        kinds = collections.Counter(device.device_kind for device in own)
        groups[" + ".join(f"{n} × {kind}" for kind, n in kinds.items())].append(process)
    return "; ".join(f"{_ranges(who)}: {what}{memory}" for what, who in groups.items())


def _ranges(numbers: list[int]) -> str:
    """ "process 3", "processes 0-63"."""
    if len(numbers) == 1:
        return f"process {numbers[0]}"
    dense = numbers[-1] - numbers[0] + 1 == len(numbers)
    listed = f"{numbers[0]}-{numbers[-1]}" if dense else ", ".join(map(str, numbers))
    return f"processes {listed}"
