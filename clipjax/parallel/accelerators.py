"""What each accelerator can do at most: one table, for the training log's MFU and for planning.

Peak FLOPs are dense bfloat16 with float32 accumulation, per device as jax counts devices (a v4 or
v5p chip is one, its two cores fused). Sources: Google Cloud's "TPU v4", "v5e", "v5p", "v6e" and
"TPU7x" system architecture pages; NVIDIA's A100, H100, H200, L4 and L40S data sheets. The clock is
peak FLOPs over the matrix units' FLOPs a cycle; the compiler's cycle estimates divide by it (TPU7x:
taken as v6e's 524,288 a device, since the compiler's own estimates exceed half of that). Link rates
are the pages' bidirectional figures halved; the network between slices is their "DCN" per chip.
"""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """One kind of device.

    Attributes:
      kind: jax's `device_kind`.
      peak_flops: bfloat16, per second.
      hbm_bytes: memory of the device.
      hbm_bytes_per_second: its bandwidth.
      clock_hz: cycles a second; 0 where no cycle estimate exists.
      ici_bytes_per_second: over all links to other chips of the slice, one direction.
      ici_links: how many they are.
      dcn_bytes_per_second: a device's share of the network between slices, one direction.
      per_chip: devices that jax sees in one chip.
    """

    kind: str
    peak_flops: float
    hbm_bytes: int
    hbm_bytes_per_second: float
    clock_hz: float = 0.0
    ici_bytes_per_second: float = 0.0
    ici_links: int = 0
    dcn_bytes_per_second: float = 0.0
    per_chip: int = 1


ACCELERATORS = {
    "v4": Accelerator("TPU v4", 275e12, 32 * GIB, 1228e9, 1.05e9, 300e9, 6, 6.25e9),
    "v5e": Accelerator("TPU v5 lite", 197e12, 16 * GIB, 819e9, 1.5e9, 200e9, 4, 3.125e9),
    "v5p": Accelerator("TPU v5", 459e12, 95 * GIB, 2765e9, 1.75e9, 600e9, 6, 6.25e9),
    "v6e": Accelerator("TPU v6 lite", 918e12, 32 * GIB, 1640e9, 1.75e9, 400e9, 4, 12.5e9),
    "tpu7x": Accelerator("TPU7x", 1153e12, 96 * GIB, 3690e9, 2.2e9, 300e9, 6, 6.25e9, per_chip=2),
    "a100-40g": Accelerator("NVIDIA A100-SXM4-40GB", 312e12, 40 * GIB, 1555e9),
    "a100-80g": Accelerator("NVIDIA A100-SXM4-80GB", 312e12, 80 * GIB, 2039e9),
    "h100": Accelerator("NVIDIA H100 80GB HBM3", 989e12, 80 * GIB, 3350e9),
    "h200": Accelerator("NVIDIA H200", 989e12, 141 * GIB, 4800e9),
    "l4": Accelerator("NVIDIA L4", 121e12, 24 * GIB, 300e9),
    "l40s": Accelerator("NVIDIA L40S", 362e12, 48 * GIB, 864e9),
}
ALIASES = {"TPU v5e": "v5e", "TPU v5p": "v5p", "TPU v6e": "v6e"}


def of_kind(device_kind: str) -> Accelerator | None:
    """The accelerator that jax calls `device_kind`; None if it is not in the table."""
    if device_kind in ALIASES:
        return ACCELERATORS[ALIASES[device_kind]]
    return next((a for a in ACCELERATORS.values() if a.kind == device_kind), None)
