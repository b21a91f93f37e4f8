"""What a compiled TPU program costs, read from its text: cycles, transfers, custom kernels.

The TPU compiler writes `estimated_cycles` on its operations. They are summed over the schedule,
loop bodies as often as they run. Transfers between chips have no cycles: they are laid beside the
schedule, each beginning when it is issued and the links are free, and what the program has to wait
for them is the exposed communication. All are estimates; nothing here was measured. Called by
`plan`.
"""

import collections
import dataclasses

from clipjax.parallel.accelerators import Accelerator
from clipjax.planning import collectives, hlo, op_costs
from clipjax.planning import kernel_costs as kernels
from clipjax.planning.collectives import Collective
from clipjax.planning.hlo_loops import trip_count
from clipjax.planning.kernel_costs import Kernel

TRIFLE = 0.1  # below this share of an operation's time its traffic to memory does not matter


@dataclasses.dataclass
class Cost:
    """Cycles of one execution, by what they are spent on, and what was counted on the way.

    Attributes:
      compute: of operations on the compute side of the roofline.
      memory: of operations on the memory side.
      kernels: charged for custom kernels.
      exposed: waiting for other chips.
      kernel_counts: executions by kernel.
      collective_counts: executions by transfer.
      unknown_loops: loops whose trip count could not be read; they count as one turn.
    """

    compute: float = 0.0
    memory: float = 0.0
    kernels: float = 0.0
    exposed: float = 0.0
    kernel_counts: collections.Counter[Kernel] = dataclasses.field(
        default_factory=collections.Counter
    )
    collective_counts: collections.Counter[Collective] = dataclasses.field(
        default_factory=collections.Counter
    )
    unknown_loops: int = 0

    @property
    def compiler(self) -> float:
        """The compiler's own estimates."""
        return self.compute + self.memory

    @property
    def total(self) -> float:
        """All cycles."""
        return self.compiler + self.kernels + self.exposed

    def add(self, other: "Cost", *, times: int = 1) -> None:
        """Add another cost, `times` over."""
        for field in ("compute", "memory", "kernels", "exposed"):
            setattr(self, field, getattr(self, field) + times * getattr(other, field))
        for name in ("kernel_counts", "collective_counts"):
            for item, count in getattr(other, name).items():
                getattr(self, name)[item] += times * count
        self.unknown_loops += other.unknown_loops

    def limit(self) -> str:
        """What most of the time goes to: compute, memory bandwidth or communication.

        Kernels count as compute: they exist to keep their operands on the chip.
        """
        parts = {
            "compute": self.compute + self.kernels,
            "memory bandwidth": self.memory,
            "communication": self.exposed,
        }
        return max(parts, key=lambda name: parts[name])


@dataclasses.dataclass(frozen=True)
class _Reader:
    module: hlo.Module
    accelerator: Accelerator
    num_slices: int
    slice_size: int
    schedules: dict[str, int]


def kernel_names(text: str) -> set[str]:
    """Names of the custom kernels in an HLO text, to look for in the compiler's dump."""
    module = hlo.parse(text)
    return {
        instruction.name
        for computation in module.computations
        for instruction in module.scheduled(computation)
        if kernels.is_kernel(instruction)
    }


def read(
    text: str,
    *,
    accelerator: Accelerator,
    devices: int,
    num_slices: int = 1,
    schedules: dict[str, int] | None = None,
) -> Cost:
    """The cost of one execution of a compiled program.

    Args:
      text: `compiled.as_text()`.
      accelerator: what it was compiled for.
      devices: how many, over all slices; the mesh counts slice by slice.
      num_slices: TPU slices.
      schedules: cycles of custom kernels by name, see `kernel_schedules.read_dump`.

    Raises:
      ValueError: the text is no HLO module.
    """
    module = hlo.parse(text)
    schedules = kernels.shared_schedules(module, schedules=schedules or {})
    reader = _Reader(module, accelerator, num_slices, devices // num_slices, schedules)
    return _run(module.entry, reader, where="")


def _run(computation: str, reader: _Reader, *, where: str) -> Cost:
    """The cost of a computation, its operations one after the other as scheduled."""
    module, cost = reader.module, Cost()
    now = 0.0
    free = {True: 0.0, False: 0.0}  # when the links between slices, and within one, are free
    arrivals: dict[str, float] = {}

    def wait(until: float) -> None:
        nonlocal now
        cost.exposed += max(until - now, 0.0)
        now = max(now, until)

    for instruction in module.scheduled(computation):
        if instruction.opcode in ("while", "call", "conditional"):
            inner = _run_called(instruction, reader, computation=computation, where=where)
            cost.add(inner)
            now += inner.total
            continue
        if kernels.is_kernel(instruction):
            kernel = kernels.charge(
                instruction,
                module=module,
                computation=computation,
                accelerator=reader.accelerator,
                schedules=reader.schedules,
            )
            cost.kernel_counts[kernel] += 1
            cost.kernels += kernel.cycles
            now += kernel.cycles
            continue
        awaited = collectives.ended(instruction, module, computation)
        if awaited in arrivals:
            wait(arrivals.pop(awaited))
        transfer = collectives.read(
            instruction,
            module=module,
            computation=computation,
            slice_size=reader.slice_size,
            where=where,
        )
        if transfer is not None:
            across = transfer.crosses_slices
            length = reader.accelerator.clock_hz * collectives.seconds(
                transfer, accelerator=reader.accelerator, num_slices=reader.num_slices
            )
            free[across] = max(now, free[across]) + length
            cost.collective_counts[dataclasses.replace(transfer, key="")] += 1
            if transfer.key:
                arrivals[transfer.key] = free[across]
            else:
                wait(free[across])
        if cycles := instruction.cycles:
            now += cycles
            if _is_memory_bound(instruction, reader, computation=computation):
                cost.memory += cycles
            else:
                cost.compute += cycles
    wait(max(arrivals.values(), default=now))
    return cost


def _run_called(
    instruction: hlo.Instruction, reader: _Reader, *, computation: str, where: str
) -> Cost:
    """A loop's turns, a call, or the longest branch of a conditional."""
    where = instruction.op_name or where
    inner = [_run(name, reader, where=where) for name in instruction.called]
    cost = Cost()
    if instruction.opcode == "while":
        trips = trip_count(reader.module, instruction, computation=computation)
        for part in inner:
            cost.add(part, times=1 if trips is None else trips)
        cost.unknown_loops += trips is None
    elif inner:
        cost.add(max(inner, key=lambda branch: branch.total))
    return cost


def _is_memory_bound(instruction: hlo.Instruction, reader: _Reader, *, computation: str) -> bool:
    """Whether bytes over bandwidth exceed FLOPs over peak, and are no trifle beside the cycles."""
    location = {"module": reader.module, "computation": computation}
    moved = op_costs.hbm_bytes(instruction, **location) / reader.accelerator.hbm_bytes_per_second
    estimate = (instruction.cycles or 0) / reader.accelerator.clock_hz
    product = op_costs.matrix_flops(instruction, **location) / reader.accelerator.peak_flops
    return moved > max(product, TRIFLE * estimate)
