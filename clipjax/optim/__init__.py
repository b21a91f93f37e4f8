"""Optimizers and schedules by name; the names are here so that configs are checked without jax."""

OPTIMIZERS = ("adamw", "lion", "adafactor")
SCHEDULES = ("cosine", "constant", "rsqrt")
