"""Evaluators by kind: measurements of a model on held-out data, on all devices.

`get(kind)` gives a function that takes opened data and returns an `embed.Evaluator`, which is
called as `evaluator(variables, poll=...)` and returns {metric: float}. The names are here so that
configs are checked without jax.
"""

from typing import Any

from clipjax.common import registry
from clipjax.evals import metric_names

KINDS = {
    "likelihood": "clipjax.evals.protocols.likelihood:make_evaluator",
    "loss": "clipjax.evals.protocols.loss:make_evaluator",
    "retrieval": "clipjax.evals.protocols.retrieval:make_evaluator",
    "zero_shot": "clipjax.evals.protocols.zero_shot:make_evaluator",
}
PREDICTING = ("likelihood",)  # of models that predict captions; the others need embeddings
CAPTIONED = ("loss", "retrieval")  # measure images with their captions
NAMES = ("classes", "templates", "permute_names")
SETTINGS = {"likelihood": NAMES, "zero_shot": NAMES}  # beside the common ones

CLASSIFIED = ("top1_accuracy", "top5_accuracy", "mean_per_class_accuracy")
METRICS = {  # what each kind gives, top-5 with more than five classes
    "likelihood": CLASSIFIED,
    "loss": ("loss",),
    "retrieval": metric_names.RECALLS,
    "zero_shot": (*CLASSIFIED, "single_prompt_top1_accuracy"),
}


def get(kind: str) -> Any:
    """The maker of evaluators of this kind; ConfigError naming the closest if there is none."""
    return registry.lookup(kind, table=KINDS, kind="evals.<name>.kind")
