"""Named options of the TPU compiler; other devices compile without any.

`config.compiler_options` names a preset; `plan --sweep` and `plan` show what one brings.
"""

from clipjax.parallel import accelerators

# How much of a core's own memory an operation may plan with. The compiler's 16 MiB make it read
# the operands of large matrix products more often than needed: of a ViT-L/14 image block, forward
# and backward at 128 pairs a chip, 16 MiB gives 43.5 M cycles on v5e, 32 MiB 39.6 M, 48 MiB 39.2 M
# in twice the compile time (compiler's estimates, libtpu 0.0.52).
PRESETS: dict[str, dict[str, str | bool]] = {
    "none": {},
    "vmem": {"xla_tpu_scoped_vmem_limit_kib": "32768"},
}
GAINS = {"v5e": "vmem"}  # what "auto" is, by kind of accelerator
NAMES = ("auto", *PRESETS)


def find(name: str, *, device_kind: str) -> dict[str, str | bool]:
    """The options of a preset for devices of jax's `device_kind`, empty unless they are TPUs."""
    if not device_kind.startswith("TPU"):
        return {}
    accelerator = accelerators.of_kind(device_kind)
    if name == "auto":
        kind = next((k for k, a in accelerators.ACCELERATORS.items() if a == accelerator), "")
        name = GAINS.get(kind, "none")
    return PRESETS[name]
