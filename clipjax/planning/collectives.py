"""Transfers between chips in an HLO schedule: kind, bytes, who takes part, and how long they take.

`compiled.py` asks `read` about every scheduled instruction. The TPU compiler gives transfers no
cycles, so `seconds` takes bytes over bandwidth: within a slice half of the chip's links (a group
that lies along one axis of a torus cannot use the other axes), one link for a permutation; between
slices the chip's share of the data-centre network.
"""

import dataclasses
import re

from clipjax.parallel.accelerators import Accelerator
from clipjax.planning.device_groups import device_groups
from clipjax.planning.hlo import Array, Instruction, Module, arrays

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
REDUCTIONS = ("all-reduce", "reduce-scatter")
STARTS = {f"{kind}-start": kind for kind in KINDS}
# Between slices the compiler hands arrays to the host's network runtime with a `send`.
BETWEEN_SLICES = {"ONE_TO_ONE": "collective-permute"}  # others are the kind in capitals
PARAMETER_USE = re.compile(r"/(convert_element_type|squeeze|dynamic_(update_)?slice)$|\bparams\b")
TOWER_END = re.compile(r"encode_(image|text)/[^/]*$")  # nothing but the normalisation is there
SCALAR_BYTES = 16 * 1024  # a handful of numbers, padded to tiles


@dataclasses.dataclass(frozen=True)
class Collective:
    """One transfer.

    Attributes:
      kind: one of KINDS.
      bytes: of the whole array on one chip: what is gathered, reduced or passed on.
      group_size: chips that take part together.
      crosses_slices: whether some group spans slices.
      carries: "parameters", "gradients", "embeddings", "log-sum-exps", "scalars" or "activations".
      key: joins the start of an asynchronous transfer to its end; "" if it is synchronous.
    """

    kind: str
    bytes: float
    group_size: int
    crosses_slices: bool
    carries: str
    key: str = ""


def read(
    instruction: Instruction, *, module: Module, computation: str, slice_size: int, where: str = ""
) -> Collective | None:
    """The transfer that a scheduled instruction makes or starts; None if it makes none.

    Args:
      instruction: an instruction of a scheduled computation, not of a fusion's body.
      module, computation: where it is.
      slice_size: devices in a slice; the mesh counts slice by slice.
      where: `op_name` of the loop around it, for instructions that have none themselves.
    """
    opcode = instruction.opcode
    inner, inner_computation = instruction, computation
    if opcode in ("fusion", "async-start"):
        match = _inside(instruction, module)
        if match is None:
            return None
        inner, inner_computation = match
    elif opcode == "send":
        return _between_slices(instruction, module=module, computation=computation, where=where)
    elif opcode not in KINDS and opcode not in STARTS:
        return None
    kind = STARTS.get(inner.opcode, inner.opcode)
    if kind == "all-reduce" and opcode == "fusion" and _is_scattered(instruction, module):
        kind = "reduce-scatter"
    moved = _moved(inner, module=module, computation=inner_computation)
    groups = device_groups(inner.attributes)
    asynchronous = opcode in STARTS or opcode == "async-start" or _target(instruction, module)
    name = inner.op_name or origin(instruction, module, computation) or where
    return Collective(
        kind=kind,
        bytes=sum(array.bytes for array in moved),
        group_size=max((len(group) for group in groups), default=1),
        crosses_slices=any(len({device // slice_size for device in g}) > 1 for g in groups),
        carries=carries(kind, op_name=name, moved=moved),
        key=(_chain(inner) or instruction.name) if asynchronous else "",
    )


def ended(instruction: Instruction, module: Module, computation: str) -> str:
    """The `key` of the asynchronous transfer that an instruction waits for, "" if none."""
    if instruction.opcode == "recv-done":
        receive = module.find(computation, instruction.operands[0])
        return _rendezvous(receive) if receive else ""
    if instruction.opcode.endswith("-done"):
        return instruction.operands[0] if instruction.operands else ""
    if instruction.opcode == "fusion" and _target(instruction, module) == "AsyncCollectiveDone":
        for inner in module.scheduled(instruction.called[0]):
            if inner.opcode in KINDS:
                return _chain(inner)
    return ""


def seconds(collective: Collective, *, accelerator: Accelerator, num_slices: int) -> float:
    """How long one transfer takes: what a chip receives over its bandwidth.

    A ring reduces and scatters, or gathers, (n - 1) / n of the array; an all-reduce does both.
    """
    across = collective.crosses_slices
    n = max(num_slices if across else collective.group_size, 1)
    if collective.kind == "collective-permute":
        received, share = collective.bytes, 1 / max(accelerator.ici_links, 1)
    else:
        rounds = 2 if collective.kind == "all-reduce" else 1
        received, share = rounds * collective.bytes * (n - 1) / n, 0.5
    within = accelerator.ici_bytes_per_second * share
    bandwidth = accelerator.dcn_bytes_per_second if across else within
    return received / bandwidth if bandwidth else 0.0


def carries(kind: str, *, op_name: str, moved: list[Array]) -> str:
    """What a transfer moves, by its kind and the jax operation it comes from.

    The losses alone transfer inside a `shard_map`, and alone permute. A parameter is gathered
    where it is used: at its cast or its slice out of the stacked layers. Shards that do not fill a
    tile are gathered by an all-reduce over zeros.
    """
    in_loss = kind == "collective-permute" or "shard_map" in op_name
    tables = any(len(array.dims) > 1 and array.dtype in ("bf16", "f32") for array in moved)
    if kind in REDUCTIONS and sum(array.bytes for array in moved) <= SCALAR_BYTES:
        return "scalars"
    if in_loss and kind in REDUCTIONS:
        return "gradients" if tables else "log-sum-exps"  # the former, joined with the loss's own
    if in_loss:
        return "embeddings" if tables else "log-sum-exps"
    if PARAMETER_USE.search(op_name):
        return "parameters"
    if "transpose(" in op_name or (kind in REDUCTIONS and not op_name):
        return "gradients"
    if TOWER_END.search(op_name):
        return "embeddings"
    product = op_name.endswith("dot_general")
    return "activations" if kind in REDUCTIONS or product else "parameters"


def origin(instruction: Instruction, module: Module, computation: str) -> str:
    """`op_name` of the nearest instruction before it that has one; "" if the trace ends."""
    seen: Instruction | None = instruction
    for _ in range(16):
        if seen is None or seen.op_name:
            return seen.op_name if seen else ""
        if seen.opcode in ("parameter", "while") or not seen.operands:
            return ""
        seen = module.find(computation, seen.operands[0])
    return ""


def _inside(instruction: Instruction, module: Module) -> tuple[Instruction, str] | None:
    """The transfer in a fusion's body that this fusion makes or starts, and the body's name.

    The compiler lets one all-gather run through a chain of fusions, each of which repeats it: the
    one that starts it counts, those that carry it on while they compute, and the end, do not.
    """
    for name in instruction.called:
        body = module.scheduled(name)
        match = next((i for i in body if i.opcode in KINDS or i.opcode in STARTS), None)
        if match is not None:
            chained = _chain(match) and _target(instruction, module) != "AsyncCollectiveStart"
            return None if chained else (match, name)
    return None


def _target(instruction: Instruction, module: Module) -> str:
    """ "AsyncCollectiveStart" or "AsyncCollectiveDone" if a fusion's body says so, else ""."""
    if instruction.opcode != "fusion":
        return ""
    for inner in (i for name in instruction.called for i in module.scheduled(name)):
        target = inner.attribute("custom_call_target")
        if target.startswith("AsyncCollective"):
            return target
    return ""


def _chain(instruction: Instruction) -> str:
    """What the parts of one asynchronous transfer have in common."""
    chain = re.search(r'chain_id="(\d+)"', instruction.attributes)
    return f"chain {instruction.attribute('channel_id')}/{chain[1]}" if chain else ""


def _is_scattered(fusion: Instruction, module: Module) -> bool:
    """Whether a fusion keeps only its own part of what it reduces."""
    return any(i.opcode == "dynamic-slice" for n in fusion.called for i in module.scheduled(n))


def _moved(instruction: Instruction, *, module: Module, computation: str) -> list[Array]:
    """The larger of what goes in and what comes out."""
    sources = [module.find(computation, name) for name in instruction.operands]
    before = [array for source in sources if source for array in source.arrays]
    after = [array for array in instruction.arrays if array.dims or not before]
    if instruction.opcode.endswith("-start") and len(after) > len(before):
        after = after[len(before) :]  # the type of a start repeats its operands
    return max(before, after, key=lambda side: sum(array.bytes for array in side))


def _between_slices(
    send: Instruction, *, module: Module, computation: str, where: str
) -> Collective | None:
    transfer = re.search(r'_xla_megascale_transfer_type="(\w+)"', send.attributes)
    if not transfer:
        return None
    kind = BETWEEN_SLICES.get(transfer[1], transfer[1].lower().replace("_", "-"))
    moved = [array for array in arrays(send.type) if array.dims][:1]
    name = origin(send, module, computation) or where
    return Collective(
        kind=kind,
        bytes=sum(array.bytes for array in moved),
        group_size=1,
        crosses_slices=True,
        carries=carries(kind, op_name=name, moved=moved),
        key=_rendezvous(send),
    )


def _rendezvous(instruction: Instruction) -> str:
    match = re.search(r'_xla_host_transfer_rendezvous="([^"]*)"', instruction.attributes)
    return f"between slices {match[1]}" if match else ""
