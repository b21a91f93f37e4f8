"""What of a run lasts as long as the program: opened once by `train`, shared by its stages."""

import dataclasses
from typing import Any

from clipjax import config as settings
from clipjax.build import data as build_data
from clipjax.build import program as build
from clipjax.build import tokenizer as build_tokenizer
from clipjax.common import exits
from clipjax.common.counts import counted
from clipjax.common.exits import DataError
from clipjax.config import Config, stages
from clipjax.config import check as config_check
from clipjax.parallel import distributed
from clipjax.parallel.preemption import Preemption
from clipjax.run import checkpoint_json
from clipjax.run.evaluation import Evaluations
from clipjax.run.stage import OpenStage
from clipjax.training.checkpoint.write import Checkpoints
from clipjax.training.logging.goodput import Goodput
from clipjax.training.logging.metric_writer import MetricWriter, evaluated_before
from clipjax.training.resume import restore_newest
from clipjax.training.watchdog import Watchdog


@dataclasses.dataclass
class Run:
    """One run in its work directory; `open_run` makes it.

    Attributes:
      config: the whole run's settings; each stage has its own.
      workdir: where it lives.
      goodput, watchdog, preemption: its clock and its ends.
      source: the training data.
      stages: in order; most runs have one.
      checkpoints, writer: where state and metrics go; the writer is None but on the lead process.
      evaluators_opened: names of those whose data could be opened since the program began.
    """

    config: Config
    workdir: str
    goodput: Goodput
    watchdog: Watchdog
    preemption: Preemption
    source: Any
    stages: list[OpenStage]
    checkpoints: Checkpoints
    writer: MetricWriter | None
    evaluators_opened: set[str] = dataclasses.field(default_factory=set)

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.stages[-1].stage.last_step

    def is_complete(self) -> bool:
        """Whether the newest checkpoint is the last and everything is evaluated; says so."""
        step = self.checkpoints.latest() or 0
        complete = step >= self.total and not self._unmeasured(step)
        if complete and self.writer is not None:
            print(
                f"{self.workdir}: the run is complete, step {step:,} of {self.total:,};"
                " to go on, raise --config.total and add --allow_config_change"
            )
        return complete

    def _unmeasured(self, step: int) -> list[str]:
        """Names of the evaluators without figures of a step; a collective."""
        measured = evaluated_before(self.writer, step=step)
        return [name for name in self.config.evals if name not in measured]

    def newest_state(self) -> tuple[int, Any]:
        """(step, state) of the newest checkpoint that is whole, else of the beginning.

        Raises:
          CheckpointError: there are checkpoints and all are damaged.
          ConfigError: data, tokenizer or config do not go with the checkpoint.
        """

        by_name = {own.stage.name: own for own in self.stages}

        def opened(step: int) -> OpenStage:
            return by_name[stages.at([own.stage for own in self.stages], step).name]

        def check(record: dict[str, Any]) -> None:
            own = opened(record["step"]).tokenizer
            checkpoint_json.check(record, source=self.source, tokenizer=own, workdir=self.workdir)

        if self.checkpoints.latest() is not None:
            self.goodput.enter("restore")
        restored = restore_newest(
            self.checkpoints, lambda step: opened(step).program.abstract_state, check=check
        )
        return restored or (0, self.stages[0].first_state())

    def evaluations(self, stage: OpenStage, *, start: int) -> Evaluations:
        """The evaluators of a stage that begins after so many steps; errors as `Evaluations`."""
        evaluations = Evaluations(
            stage.evaluator,
            every=stage.horizon.evals_every,
            start=start,
            total=self.total,
            trusted=evaluated_before(self.writer) | self.evaluators_opened,
            evaluated=evaluated_before(self.writer, step=start),
            where=f"{self.workdir}/{stage.stage.name}",
        )
        self.evaluators_opened |= set(evaluations.opened)
        return evaluations

    def close(self) -> None:
        """Wait for what is being written."""
        self.watchdog.close()
        self.checkpoints.close()
        if self.writer is not None:
            self.writer.close()

    def end(self, step: int, *, exit_code: int) -> None:
        """Close, and say how it ended.

        Raises:
          DataError: trained to the end, and evaluators have failed there.
        """
        failed = self._unmeasured(step) if exit_code == exits.DONE else []
        self.close()
        ended = "complete" if exit_code == exits.DONE else f"saved, leaving with {exit_code}"
        if self.writer is not None:
            times = self.goodput.describe()
            print(f"{self.workdir}: step {step:,} of {self.total:,}, {ended}; {times}")
        if failed:
            raise DataError(
                f"{self.workdir}: the training is complete and saved; {len(failed)} of"
                f" {counted(len(self.config.evals), 'evaluator')} failed at its end:"
                f" {', '.join(failed)} (metrics.jsonl says why); mend their data, or leave them"
                " out of config.evals, and start again: only they are measured"
            )


def open_run(config: Config, *, workdir: str, watchdog: Watchdog) -> Run:
    """The run in its work directory, as far as it has come.

    Raises:
      ConfigError: a stage's batch or length does not fit, of every stage, so that the last one's
        mistake shows now; warm-up or cool-down do not fit into the run; or the tokenizer is another
        than the run's.
      DataError: the data cannot be read.
    """
    goodput, preemption = Goodput(), Preemption()
    meshes = {name: build.mesh(stages.settings(config, name)) for name in [*config.stages, ""]}
    source = build_data.source(
        config.data, image_size=config.model.vision.image_size, seed=config.seed
    )
    config_check.check_durations(config, epoch_examples=len(source))
    horizon = build.horizon(config, epoch_examples=len(source))
    opened = [
        OpenStage(
            stage,
            mesh=meshes[stage.name],
            source=source,
            tokenizer=build_tokenizer.tokenizer(stage.config, source=source, workdir=workdir),
            schedule=horizon.of_schedule,
        )
        for stage in stages.plan(config, epoch_examples=len(source))
    ]
    keep = config.checkpoint
    return Run(
        config=config,
        workdir=workdir,
        goodput=goodput,
        watchdog=watchdog,
        preemption=preemption,
        source=source,
        stages=opened,
        checkpoints=Checkpoints(
            workdir,
            keep_last=keep.keep_last,
            keep_every=horizon.keep_every,
            best_metric=keep.keep_best.metric,
            best_mode=keep.keep_best.mode,
        ),
        writer=(
            MetricWriter(workdir, config=settings.to_keep(config), wandb_project=config.wandb)
            if distributed.is_lead()
            else None
        ),
    )
