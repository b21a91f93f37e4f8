"""All processes must compile the same program: two that differ wait for each other for ever."""

import hashlib
import re

import jax

from clipjax.common.exits import ConfigError
from clipjax.parallel import distributed

# A kernel's bytes hold the paths of its source files, which hosts may keep in different places.
KERNEL = re.compile(r'backend_config = "[^"]*"')


def fingerprint(lowered: jax.stages.Lowered) -> str:
    """16 hex digits that tell programs apart."""
    text = KERNEL.sub("", lowered.as_text())
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def check(lowered: jax.stages.Lowered) -> None:
    """A collective of all processes; the only one has nothing to compare.

    Raises:
      ConfigError: this process's program is not the lead's.
    """
    if jax.process_count() == 1:
        return
    mine = fingerprint(lowered)
    lead = distributed.from_lead(mine.encode()).decode()
    if mine != lead:
        raise ConfigError(
            f"process {jax.process_index()} would compile another program than process 0 ({mine},"
            f" {lead} there) from the same settings and versions; compare the code of clipjax and"
            " the JAX_… and XLA_… variables of the two hosts"
        )
