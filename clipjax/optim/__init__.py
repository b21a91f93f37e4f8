"""Optimizers and schedules by name; the names are here so that configs are checked without jax."""

# Of `config.defaults()`. Not every model has a parameter that each of them matches; any other
# pattern that matches none is a slip, see `trees.check_matches`.
USUAL_PATTERNS = (r".*/(bias|scale)", r"logit_(scale|bias)", r".*")

OPTIMIZERS = ("adamw", "lion", "adafactor")
SCHEDULES = ("cosine", "constant", "rsqrt")
