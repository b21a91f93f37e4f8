"""How many cycles the TPU compiler schedules for a custom kernel, from a dump it makes on request.

Operations of a custom kernel (Pallas, or one that the compiler makes itself) carry no estimate in
the HLO text. The dump holds each kernel's final program: one numbered line for each instruction
bundle, one bundle a cycle, with as many ">" as there are loops around it, and each loop's exit
test. `plan` asks for the dump before the compiler loads; `kernels.py` charges what is found.
"""

import collections
import dataclasses
import os
import re

from clipjax.common import files

BUNDLE = re.compile(r"^\s*0?x?[0-9a-f]+\s+(?:([A-Z]{2}):)?\s*:?\s*(>*)\s*:?\s*\{")
IF = r"(?:\(!?%\w+\), )?"  # the predicate that an instruction may have
EXIT_TEST = re.compile(
    rf"%(p\w+) = scmp\.ge\.s32\.totalorder {IF}%(s\w+), (\d+) /\* loop exit test"
)
BRANCH_BACK = re.compile(r"sbr\.rel \(!%(p\w+)\) target = \$region(\d+)")
DUMP_NAME = re.compile(r"\d+-(.+)-\d+-final_bundles\.txt")


@dataclasses.dataclass
class _Loop:
    regions: set[str]  # labels that a branch back may name
    trips: int | None = None


def dump_flags(folder: str) -> str:
    """Flags for LIBTPU_INIT_ARGS that make the compiler write every final program to `folder`."""
    return (
        f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
        " --xla_jf_dump_llo_pass_label_regex=final_bundles"
    )


def read_dump(folder: str, *, names: set[str]) -> dict[str, int]:
    """Cycles by instruction name for those of `names` that the dump holds and can be read."""
    schedules = {}
    for file in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        match = DUMP_NAME.fullmatch(file)
        if match and match[1] in names and "schedule-analysis" not in file:
            with open(os.path.join(folder, file), errors="replace") as stream:
                cycles = scheduled_cycles(stream.read())
            if cycles is not None:
                schedules[match[1]] = cycles
    return schedules


def clear_dump(folder: str) -> None:
    """Remove the folder, so that the next compilation's dump is not mixed with this one's."""
    files.remove(folder)


def scheduled_cycles(text: str) -> int | None:
    """Bundles of one program, each as often as its loops run.

    Conditional parts count as if always executed; waits for memory are not in the schedule.
    Returns None for a program without bundles, or with a loop whose exit is no constant.
    """
    around: list[_Loop] = []
    tallies: list[tuple[tuple[_Loop, ...], int]] = []
    tests: dict[str, int] = {}
    loops: list[_Loop] = []
    for line in text.splitlines():
        bundle = BUNDLE.match(line)
        if not bundle:
            continue
        depth = len(bundle[2])
        if bundle[1] == "LB":
            loops.append(_Loop(set(re.findall(r"Start region (\d+)", line))))
            around = [*around[: depth - 1], loops[-1]]
        for predicate, counter, limit in EXIT_TEST.findall(line):
            tests[predicate] = int(limit) - _start(text, counter)
        tallies.append((tuple(around[:depth]), 1))
        for predicate, region in BRANCH_BACK.findall(line):
            for loop in loops:
                if region in loop.regions and loop.trips is None:
                    loop.trips = tests.get(predicate)
    if not tallies or any(loop.trips is None for loop in loops):
        return None
    counts = collections.Counter(tuple(map(id, nest)) for nest, _ in tallies)
    trips = {id(loop): loop.trips or 0 for loop in loops}
    total = 0
    for nest, bundles in counts.items():
        for loop in nest:
            bundles *= trips[loop]
        total += bundles
    return total


def _start(text: str, counter: str) -> int:
    """What a loop's counter starts with, 0 where that is not plain to see.

    The counter that is tested is phi + 1, and the phi starts as a constant set before the loop.
    """
    phi = re.search(rf"%{counter} = sadd\.s32 {IF}1, %(s\w+)", text)
    first = phi and re.search(rf"%{phi[1]} = sphi %(s\w+),", text)
    constant = first and re.search(rf"%{first[1]} = smov\.u32 {IF}(\d+)\b", text)
    return int(constant[1]) if constant else 0
