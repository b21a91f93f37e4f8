"""Reading the text of an optimised HLO module: computations, instructions, array types.

`compiled.as_text()` is the only place where the TPU compiler shows its schedule and its estimates.
The modules beside this one work on what it returns.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

ITEM_BYTES = {"pred": 1, "token": 0, "opaque": 0, "bf16": 2}  # the rest carry their bits
ARRAY = re.compile(r"\b([a-z][a-z0-9]*)\[([0-9,]*)\](\{[^{}]*\})?")
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
NAMED = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
OPCODE = re.compile(r"\s*([a-z][\w\-]*)\(")
CALLS = re.compile(r"\b(?:calls|body|condition|to_apply|called_computations)=%?([\w.\-]+)")
BRANCHES = re.compile(r"\b(?:branch_computations=\{|true_computation=|false_computation=)([^}\s]*)")


@dataclasses.dataclass(frozen=True)
class Array:
    """An array type: dtype, dimensions, layout text such as "{1,0:T(8,128)S(1)}"."""

    dtype: str
    dims: tuple[int, ...]
    layout: str = ""

    @property
    def item_bytes(self) -> float:
        """Bytes of one element; 0.5 for 4-bit types."""
        if self.dtype in ITEM_BYTES:
            return ITEM_BYTES[self.dtype]
        bits = re.search(r"\d+", self.dtype)
        return int(bits[0]) / 8 if bits else 0

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> float:
        """Bytes without padding."""
        return self.size * self.item_bytes

    @property
    def padded_bytes(self) -> float:
        """Bytes as stored: the two fastest dimensions padded to the layout's tile, T(8,128)."""
        order = re.match(r"\{([0-9,]+)", self.layout)
        tile = re.search(r"T\(([0-9,]+)\)", self.layout)
        if not order or not tile:
            return self.bytes
        dims = list(self.dims)
        sides = [int(side) for side in tile[1].split(",")]
        for axis, side in zip(order[1].split(","), reversed(sides), strict=False):
            dims[int(axis)] = -(-dims[int(axis)] // side) * side
        return math.prod(dims) * self.item_bytes

    @property
    def in_hbm(self) -> bool:
        """Whether it lies in main memory; "S(1)" and up are on-chip spaces."""
        return "S(" not in self.layout


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: `%name = type opcode(operands), attributes`."""

    name: str
    opcode: str
    type: str
    operands: tuple[str, ...]
    literal: str  # what stands between the parentheses, for constants and parameters
    attributes: str
    is_root: bool

    @property
    def arrays(self) -> list[Array]:
        """The arrays of its type, in order; a tuple has several."""
        return arrays(self.type)

    @property
    def cycles(self) -> int | None:
        """The compiler's estimate for one execution; None where it makes none."""
        match = re.search(r'"estimated_cycles":"(\d+)"', self.attributes)
        return int(match[1]) if match else None

    @property
    def op_name(self) -> str:
        """The jax operation it comes from, "" if the compiler made it."""
        match = re.search(r'op_name="([^"]*)"', self.attributes)
        return match[1] if match else ""

    @property
    def called(self) -> list[str]:
        """Computations it runs: a fusion's, a loop's body and condition, a conditional's."""
        names = CALLS.findall(self.attributes)
        for text in BRANCHES.findall(self.attributes):
            names += [name.strip(" %,") for name in text.split(",") if name.strip(" %,")]
        return names

    def attribute(self, name: str) -> str:
        """The word after `name=`, "" if it has none."""
        match = re.search(rf'\b{name}=%?"?([\w.\-]+)', self.attributes)
        return match[1] if match else ""


@dataclasses.dataclass(frozen=True)
class Module:
    """Computations, each instructions by name in scheduled order, and the entry's name."""

    computations: dict[str, dict[str, Instruction]]
    entry: str

    def scheduled(self, computation: str) -> list[Instruction]:
        """The instructions of a computation, in order."""
        return list(self.computations.get(computation, {}).values())

    def find(self, computation: str, name: str) -> Instruction | None:
        """The instruction called `name` in a computation."""
        return self.computations.get(computation, {}).get(name)

    def root(self, computation: str) -> Instruction | None:
        """A computation's result."""
        return next((i for i in self.scheduled(computation) if i.is_root), None)


def arrays(text: str) -> list[Array]:
    """All array types in a piece of HLO text."""
    return [
        Array(dtype, tuple(int(d) for d in dims.split(",") if d), layout or "")
        for dtype, dims, layout in ARRAY.findall(text)
    ]


def parse(text: str) -> Module:
    """A module from `compiled.as_text()`; ValueError if it has no entry computation."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if not line.startswith(" "):
            header = COMPUTATION.match(line)
            current = None
            if header:
                current = computations.setdefault(header[2], {})
                entry = header[2] if header[1] else entry
        elif current is not None and (instruction := _instruction(line)):
            current[instruction.name] = instruction
    if not entry:
        raise ValueError("no ENTRY computation: not the text of an HLO module")
    return Module(computations, entry)


def _instruction(line: str) -> Instruction | None:
    named = NAMED.match(line)
    if not named:
        return None
    start = named.end()
    end = _closing(line, start) if line[start] == "(" else line.index(" ", start)
    opcode = OPCODE.match(line, end)
    if not opcode:
        return None
    close = _closing(line, opcode.end() - 1)
    inside = line[opcode.end() : close - 1]
    return Instruction(
        name=named[2],
        opcode=opcode[1],
        type=line[start:end],
        operands=tuple(re.findall(r"%([\w.\-]+)", inside)),
        literal=inside,
        attributes=line[close:],
        is_root=bool(named[1]),
    )


def _closing(line: str, start: int) -> int:
    """The position after the bracket that closes the one at `start`."""
    depth = 0
    for position in _brackets(line, start):
        depth += 1 if line[position] == "(" else -1
        if depth == 0:
            return position + 1
    return len(line)


def _brackets(line: str, start: int) -> Iterator[int]:
    return (match.start() for match in re.compile(r"[()]").finditer(line, start))
