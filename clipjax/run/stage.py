"""A stage of a run, open: its mesh, data and program, each made once. `run.py` opens, `train` uses.

A stage is a part of the run with settings of its own (`config/stages.py`); most runs have one.
"""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import jax
from jax.sharding import Mesh

from clipjax.build import data as build_data
from clipjax.build import model as build_model
from clipjax.build import program as build
from clipjax.config import Config
from clipjax.config.stages import Stage
from clipjax.data import loader
from clipjax.data.examples import TrainExamples
from clipjax.data.tokenizers import Tokenizer
from clipjax.evals.evaluator import Evaluator
from clipjax.parallel import sharding
from clipjax.run import checkpoint_json


@dataclasses.dataclass(frozen=True)
class OpenStage:
    """A stage with all that training needs of it besides the state.

    Attributes:
      stage: its settings and steps.
      mesh: of its devices.
      source: the training data, the same for all stages.
      tokenizer: of its context length.
      schedule: the learning rate's durations in steps of the run's own batch, by the names that
        `build.program` gives them.
    """

    stage: Stage
    mesh: Mesh
    source: Any
    tokenizer: Tokenizer
    schedule: Mapping[str, int]

    @property
    def config(self) -> Config:
        """The settings in effect."""
        return self.stage.config

    @cached_property
    def horizon(self) -> build.Horizon:
        """Durations in steps of the stage's own batch."""
        return build.horizon(self.config, epoch_examples=len(self.source))

    @cached_property
    def program(self) -> build.Program:
        """The training program: shapes, shardings, and the step, not compiled yet."""
        return build.program(
            self.config, mesh=self.mesh, **self.schedule, scheduled=self.stage.scheduled
        )

    @cached_property
    def examples(self) -> TrainExamples:
        """The training stream, by position."""
        return build_data.examples(self.config, source=self.source, tokenizer=self.tokenizer)

    @cached_property
    def flops_per_pair(self) -> float:
        """Model FLOPs of a training step for one pair."""
        return build_model.training_flops_per_pair(self.config)

    def compile(self) -> jax.stages.Compiled:
        """The step (state, batch) → (state, metrics), compiled for the mesh."""
        return build.compile_step(self.config, self.program, mesh=self.mesh)

    def evaluator(self, name: str) -> Evaluator:
        """The evaluator of that name, its data open; errors as `build.data.evaluator`."""
        return build_data.evaluator(
            self.config, name, mesh=self.mesh, tokenizer=self.tokenizer, training=self.source
        )

    def batches(self, start: int) -> loader.TrainBatches:
        """This host's rows of the batches from a step on; the workers begin to fill at once."""
        return loader.train_batches(
            self.examples,
            start=self.stage.examples(start),
            batch_size=self.config.batch_size,
            rows=sharding.local_rows(self.config.batch_size, mesh=self.mesh),
            num_workers=self.config.data.num_workers,
        )

    def to_device(self, batch: dict[str, Any]) -> dict[str, jax.Array]:
        """A host's rows as its part of the global batch."""
        return sharding.to_device(batch, mesh=self.mesh, batch_size=self.config.batch_size)

    def progress(self, step: int) -> dict[str, float]:
        """Metrics that follow from the step: examples seen, epochs, shares of a mixture."""
        seen = self.stage.examples(step)
        return {"examples_seen": seen, **self.examples.progress(seen)}

    def record(self, step: int) -> dict[str, Any]:
        """The JSON of a checkpoint at a step."""
        return checkpoint_json.make(
            self.stage, step=step, source=self.source, tokenizer=self.tokenizer
        )

    def first_state(self) -> Any:
        """The state that a run begins with: random, or with the weights of `config.init`."""
        return build_model.initial_state(self.config, self.program, tokenizer=self.tokenizer)
