"""The stages of a run: settings that hold until so many examples were seen; `train` walks them.

Smaller images, shorter texts, patches left out or another batch first, the config's own settings
last (Li et al. 2023, "Scaling language-image pre-training via masking" and "An inverse scaling law
for CLIP training"). Parameters, optimizer state and the position in the data are carried over. The
unit is the example: in `until`, `total` and the schedule a step is `config.batch_size` examples,
whatever the batch of the stage.
"""

import dataclasses
from typing import Any

from clipjax.common import durations
from clipjax.common.exits import ConfigError
from clipjax.config import Config


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a run.

    Attributes:
      name: of `config.stages`; "" is the last, of the config's own settings.
      config: the settings in effect, without stages.
      first_step, last_step: finished optimizer steps when it begins and ends.
      first_example: examples seen when it begins.
      run_batch: the config's own batch, whose steps the schedule counts.
    """

    name: str
    config: Config
    first_step: int
    last_step: int
    first_example: int
    run_batch: int

    def examples(self, step: int) -> int:
        """Examples seen after so many steps."""
        return self.first_example + (step - self.first_step) * self.config.batch_size

    def scheduled(self, step: Any) -> Any:
        """The step at which a run of the config's own batch has seen as many examples."""
        batch = self.config.batch_size
        if batch == self.run_batch and self.first_example == self.first_step * batch:
            return step
        return (self.first_example + (step - self.first_step) * batch) / self.run_batch


def plan(config: Config, *, epoch_examples: int | None) -> list[Stage]:
    """The stages in order, the last one last; a run without stages is one.

    Raises:
      ConfigError: an end is no duration, or not before the next one and the run's.
    """

    def examples(text: str, where: str) -> int:
        return durations.examples(
            text, where=where, batch_size=config.batch_size, epoch_examples=epoch_examples
        )

    ends = {
        name: examples(stage.until, f"config.stages.{name}.until")
        for name, stage in config.stages.items()
    }
    ends = dict(sorted(ends.items(), key=lambda item: item[1]))
    planned: list[Stage] = []
    step = example = 0
    for name, end in [*ends.items(), ("", examples(config.total, "config.total"))]:
        own = settings(config, name)
        if (example and end <= example) or end <= 0:
            key, text = "total", config.total
            if name:
                key, text = f"stages.{name}.until", config.stages[name].until
            raise ConfigError(
                f"config.{key}={text}: comes to {end:,} examples, where {example:,} have been seen"
                " by the stages before"
            )
        count = max(int((end - example) / own.batch_size + 0.5), 1)
        planned.append(Stage(name, own, step, step + count, example, config.batch_size))
        step, example = step + count, example + count * own.batch_size
    return planned


def settings(config: Config, name: str) -> Config:
    """The config of one stage, "" for the last: `config` with the stage's changes."""
    own = config.copy_and_resolve_references()
    with own.unlocked():
        own.stages = type(own)()
    if not name:
        return own
    stage = config.stages[name]
    own.batch_size = stage.batch_size or config.batch_size
    own.micro_batches = stage.micro_batches or config.micro_batches
    if stage.patch_dropout >= 0:
        own.patch_dropout = stage.patch_dropout
    for tower, key in (("vision", "image_size"), ("text", "context_length")):
        if stage[key] and stage[key] != config.model[tower][key]:
            own.model[tower][key] = stage[key]
            own.model.name = "custom"
    return own


def at(stages: list[Stage], step: int) -> Stage:
    """The stage that made a checkpoint after so many steps."""
    return next((stage for stage in stages if step <= stage.last_step), stages[-1])
