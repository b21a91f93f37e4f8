"""Evaluation: protocols measure a model on a set, in suites of sets or as evaluators of a run.

KINDS are the protocols that an evaluator of `config.evals` can be, with what is known of each;
they are here so that configs are checked without jax.
"""

from types import ModuleType

from clipjax.common import moved
from clipjax.evals.protocols.registry import FACTS

KINDS = {name: facts.in_loop for name, facts in sorted(FACTS.items()) if facts.in_loop}


def __getattr__(name: str) -> ModuleType:
    return moved.module(__name__, name)
