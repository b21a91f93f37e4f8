"""Evaluators by kind: measurements of a model on held-out data, on all devices.

`get(kind)` gives a function that takes opened data and returns an `embed.Evaluator`, which is
called as `evaluator(variables, poll=...)` and returns {metric: float}. The kinds are the protocols
that can measure during training; they are here so that configs are checked without jax.
"""

import importlib
from typing import Any

from clipjax.common.registry import check_name
from clipjax.evals.protocols.registry import FACTS

KINDS = {name: facts.in_loop for name, facts in sorted(FACTS.items()) if facts.in_loop}


def get(kind: str) -> Any:
    """The maker of evaluators of this kind; ConfigError naming the closest if there is none."""
    check_name(kind, names=KINDS, kind="evals.<name>.kind")
    return importlib.import_module(f"clipjax.evals.protocols.{kind}").make_evaluator
