"""XLA's flags for simulated CPU devices in tests.

Tests compile much and compute little: without LLVM's optimisation, and with the plainer emitters,
the step of `tiny` compiles in a quarter of the time (2.3 against 9.5 CPU-s, its `init` 1.8 against
7.1) and takes 61 ms against 38. Set XLA_FLAGS to test under others. A flag that XLA does not know
ends the process: jaxlib 0.11 knows the emitters' no more, and the TPU compiler neither of the two,
so `pytest -m tpu_compiler` goes without.
"""

import importlib.metadata

JAXLIB = tuple(int(part) for part in importlib.metadata.version("jaxlib").split(".")[:2])
PLAIN_EMITTERS = "--xla_cpu_use_fusion_emitters=false" if JAXLIB < (0, 11) else ""
QUICK_COMPILATION = f"--xla_backend_optimization_level=0 {PLAIN_EMITTERS}".strip()
# XLA ends a process whose devices have not met in a collective for 40 s, as on a busy machine.
PATIENCE = "--xla_cpu_collective_call_terminate_timeout_seconds=600"


def xla_flags(count: int, *, quick: bool = True) -> str:
    """For a process of `count` devices."""
    flags = f"--xla_force_host_platform_device_count={count}"
    return f"{flags} {QUICK_COMPILATION} {PATIENCE}" if quick else flags
