"""Evaluators of `config.evals`: a protocol on held-out data, between the steps of a run.

`build.data` opens them before the first step; `evaluate` runs them on any checkpoint.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from clipjax.evals import KINDS, embed, notes, prompts
from clipjax.evals.evaluated import EvaluatedModel, EvaluatedSet
from clipjax.evals.protocols import registry
from clipjax.evals.protocols.registry import Protocol
from clipjax.evals.suites import set_data
from clipjax.evals.suites.set_data import SetData


@dataclasses.dataclass
class Evaluator:
    """evaluator(variables, poll=...) → {metric: value}, the in-loop figures of a protocol.

    Attributes:
      protocol: that measures.
      evaluated: the data, open, and the model without its weights.
      chance: what guessing gives, by metric.
      seen: of the records, how many are known to be training data.
      of_data: what of the data changes how figures are read, with the number of images it touches.
      details: of the newest measurement, for pictures (`Measurement.picture`).
      notes: of the newest measurement, what of data and figures changes how they are read.
    """

    protocol: Protocol
    evaluated: EvaluatedSet
    chance: dict[str, float]
    seen: int = 0
    of_data: Sequence[str] = ()
    details: Any = None
    notes: Sequence[str] = ()

    @property
    def source(self) -> Any:
        """What it measures on."""
        return self.evaluated.data.source

    @property
    def n(self) -> int:
        """Images measured on."""
        return self.evaluated.data.n

    def __call__(self, variables: Any, *, poll: embed.Poll) -> dict[str, Any]:
        """Values by metric, floats but for `prompts_hash`, which says what was measured.

        Raises:
          embed.Preempted: `poll`, asked once a batch, said to give up.
        """
        self.details, self.notes = None, ()  # not those of the time before, should this one fail
        evaluated, model = self.evaluated, self.evaluated.model
        evaluated.model = dataclasses.replace(model, variables=variables)
        evaluated.poll = poll
        try:
            measurement = (self.protocol.in_loop or self.protocol.measure)(evaluated)
        finally:  # the next step's state needs the memory of this one's
            evaluated.model = model
            evaluated.forget()
        values = {name: estimate.value for name, estimate in measurement.figures.items()}
        self.details = measurement.picture
        self.notes = [*self.of_data, *measurement.warnings, *notes.of_values(values)]
        asked = evaluated.own_prompts
        return values | ({"prompts_hash": asked.hash} if asked else {})


def open_evaluator(
    kind: str,
    source: Any,
    *,
    model: EvaluatedModel,
    name: str,
    **naming: Any,
) -> Evaluator:
    """The evaluator of a protocol in KINDS on `source`, whose labels or captions are read now.

    Args:
      kind: the protocol's name.
      source: held-out data.
      model: without its weights.
      name: of the evaluator, for errors.
      naming: of a kind with prompts: classes (see `prompts.table`), templates and permute_names
        (see `prompts.make`).

    Raises:
      ConfigError: the table of names does not fit the data, or a prompt the model's context.
      DataError: records have no labels.
    """
    protocol, with_captions = registry.get(kind), KINDS[kind].captions
    data = set_data.of_evaluator(
        source, name=name, kind="retrieval" if with_captions else "classification"
    )
    evaluated = EvaluatedSet(model, data)
    if with_captions:
        _ = evaluated.captions_cut
    else:
        _ = data.labels
        evaluated.own_prompts = _prompts(data, **naming)
        evaluated.check_prompts()
    return Evaluator(protocol, evaluated, protocol.chance(evaluated))


def _prompts(
    data: SetData, *, classes: str = "", templates: Sequence[str] = (), permute_names: bool = False
) -> prompts.Prompts:
    table = prompts.table(classes, source=data.source, keys=data.keys, where=data.where)
    return prompts.make(
        data.keys, table=table, templates=templates, permute_names=permute_names, where=data.where
    )
