"""How often a loop of an HLO module runs, read from its condition; called by `compiled.py`.

The TPU compiler leaves no trip count on its loops. A `lax.scan` or `fori_loop` becomes a counter
that starts at a constant, grows by a constant and is compared with a constant.
"""

import re

from clipjax.planning.hlo import Instruction, Module


def trip_count(module: Module, loop: Instruction, *, computation: str) -> int | None:
    """How often a `while` runs: (limit - start) / step of the counter its condition compares.

    Args:
      module: where the loop is.
      loop: the `while`.
      computation: the computation that holds it.

    Returns:
      The count; None if the condition is no comparison of a counter with a constant.
    """
    known = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if known:
        return int(known[1])
    condition, body = loop.attribute("condition"), loop.attribute("body")
    compare = _comparison(module, condition)
    if compare is None:
        return None
    direction, left, right = compare
    counter = _tuple_index(module, condition, left)
    if counter is None or direction not in ("LT", "LE", "NE"):
        return None
    limit = _constant(module, condition, right)
    if limit is None and (index := _tuple_index(module, condition, right)) is not None:
        limit = _initial(module, loop, index, computation=computation)
    if limit is None:
        return None
    start = _initial(module, loop, counter, computation=computation) or 0
    step = _step(module, body, counter)
    return max(0, -(-(limit + (direction == "LE") - start) // step))


def _comparison(module: Module, condition: str) -> tuple[str, str, str] | None:
    """(direction, left operand, right operand) as names in the condition's own computation."""
    root = module.root(condition)
    if root is not None and root.opcode == "compare":
        return root.attribute("direction"), root.operands[0], root.operands[1]
    if root is not None and root.opcode == "fusion" and root.called:
        inner = module.root(root.called[0])
        if inner is not None and inner.opcode == "compare":
            sides = [_outside(module, root, name) for name in inner.operands[:2]]
            if None not in sides:
                return inner.attribute("direction"), sides[0] or "", sides[1] or ""
    return None


def _outside(module: Module, fusion: Instruction, name: str) -> str | None:
    """The fusion's operand that its parameter `name` stands for."""
    parameter = module.find(fusion.called[0], name)
    if parameter is None or parameter.opcode != "parameter":
        return None
    return fusion.operands[int(parameter.literal)]


def _tuple_index(module: Module, computation: str, name: str) -> int | None:
    source = module.find(computation, name)
    while source is not None and source.opcode in ("copy", "bitcast"):
        source = module.find(computation, source.operands[0])
    if source is None or source.opcode != "get-tuple-element":
        return None
    return int(source.attribute("index"))


def _constant(module: Module, computation: str, name: str) -> int | None:
    source = module.find(computation, name)
    while source is not None and source.opcode in ("copy", "bitcast") and source.operands:
        source = module.find(computation, source.operands[0])
    if source is None or source.opcode != "constant" or not re.fullmatch(r"-?\d+", source.literal):
        return None
    return int(source.literal)


def _initial(module: Module, loop: Instruction, index: int, *, computation: str) -> int | None:
    """The constant that element `index` of the loop's state starts with."""
    state = module.find(computation, loop.operands[0])
    if state is None or state.opcode != "tuple":
        return None
    return _constant(module, computation, state.operands[index])


def _step(module: Module, body: str, index: int) -> int:
    """What one turn adds to element `index` of the state; 1 where that is not plain to see."""
    root = module.root(body)
    if root is None or root.opcode != "tuple":
        return 1
    add = module.find(body, root.operands[index])
    if add is None or add.opcode != "add":
        return 1
    steps = [_constant(module, body, name) for name in add.operands]
    return next((step for step in steps if step), 1)
