"""XLA's flags for simulated CPU devices in tests.

Tests compile much and compute little: without LLVM's optimisation, and with the plainer emitters,
the step of `tiny` compiles in a quarter of the time (2.3 against 9.5 CPU-s, its `init` 1.8 against
7.1) and takes 61 ms against 38. Set XLA_FLAGS to test under others. The TPU compiler ends the
process that has a flag it does not know: `pytest -m tpu_compiler` goes without these two.
"""

QUICK_COMPILATION = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"


def xla_flags(count: int, *, quick: bool = True) -> str:
    """For a process of `count` devices."""
    flags = f"--xla_force_host_platform_device_count={count}"
    return f"{flags} {QUICK_COMPILATION}" if quick else flags
