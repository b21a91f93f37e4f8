"""Training, one straight line in numbered chapters. Called by `main`.

What is opened once for a stage (mesh, data, program) is in `run/stage.py`. The loss is made inside
the step, `training/step.py`: the towers give image_embed and text_embed, float32 [B, E] and
L2-normalised, and the objective of `training/objectives` makes float32 [] of them.
"""

import contextlib
from typing import Any

import jax

from clipjax.build import model as build_model
from clipjax.common import exits
from clipjax.config import Config
from clipjax.evals.embed import Preempted
from clipjax.parallel import compilation_cache, distributed, shutdown
from clipjax.run import folder as run_folder
from clipjax.run import lease, summary
from clipjax.run.evaluation import Evaluations
from clipjax.run.report import RunReport
from clipjax.run.run import Run, open_run
from clipjax.run.stage import OpenStage
from clipjax.training.bad_records import BadRecords
from clipjax.training.carry_over import carry_over
from clipjax.training.checkpoint.saver import Saver
from clipjax.training.logging.metric_writer import last_step
from clipjax.training.logging.step_log import StepLog
from clipjax.training.profile import Profiler
from clipjax.training.watchdog import Watchdog


def train(config: Config, *, workdir: str, allow_config_change: bool = False) -> int:
    """Train until `config.total`, from the work directory's newest checkpoint if it has one.

    Returns:
      The exit code: 0 complete, 143 preempted and saved, 130 Ctrl-C and saved.

    Raises:
      CleanExit: with the exit code for what was wrong.
    """
    distributed.initialize(
        timeout_seconds=config.join_seconds, heartbeat_seconds=config.heartbeat_seconds
    )
    with shutdown.on_all_hosts():
        run_folder.check_same(config)
        with lease.hold(workdir):
            run_folder.open_for_training(workdir, config, allow_config_change=allow_config_change)
            # Closed by an error, too: a notebook lives on, and it would end that.
            with contextlib.closing(Watchdog(config.watchdog_seconds)) as watchdog:
                return _train(config, workdir=workdir, watchdog=watchdog)


def _train(config: Config, *, workdir: str, watchdog: Watchdog) -> int:
    compilation_cache.enable(config.compilation_cache)
    run = open_run(config, workdir=workdir, watchdog=watchdog)
    if run.is_complete():
        run.close()
        return exits.DONE
    (step, state), exit_code = run.newest_state(), exits.DONE
    for stage in run.stages:
        ahead = step < stage.stage.last_step or stage is run.stages[-1]
        if ahead and exit_code == exits.DONE:
            step, state, exit_code = _train_stage(run, stage, start=step, state=state)
    run.end(step, exit_code=exit_code)
    return exit_code


def _train_stage(run: Run, stage: OpenStage, *, start: int, state: Any) -> tuple[int, Any, int]:
    """Train from `start` to the stage's end: (step, state, exit code)."""
    config, clock, end = stage.config, run.goodput, stage.stage.last_step
    run.watchdog.start()

    # 1. Evaluators: their data are opened first, where a mistake shows at once.
    evaluations = run.evaluations(stage, start=start)

    # 2. Program and state: what the stage before left, in this stage's shapes and shardings.
    build_model.check_kernels(config, mesh=stage.mesh)
    state = carry_over(state, stage.program.abstract_state)
    clock.enter("init")

    # 3. Summary and report, on the process that writes.
    done_before = last_step(run.writer)
    reports = _summary_and_reports(run, stage, evaluations, start=start)

    # 4. Batches and the step: the loader's workers fill their queues while it compiles.
    with contextlib.closing(stage.batches(start)) as batches:
        clock.enter("compile")
        step_function = stage.compile()
        log = StepLog(
            run.writer,
            start=start,
            total=run.total,
            batch_size=config.batch_size,
            log_every=stage.horizon.log_every,
            progress=stage.progress,
            peak_share=build_model.peak_share(stage.flops_per_pair, mesh=stage.mesh),
            clock=clock,
            listeners=reports,
        )
        log.say(summary.plan(stage, step_function))
        look_every = stage.horizon.log_every if distributed.is_lead() else 0
        profiler = Profiler(run.workdir, window=config.profile, look_every=look_every)
        bad_records = BadRecords(
            max_fraction=config.data.max_bad_fraction,
            sources=run.source.names,
            seen=stage.stage.examples(start) // jax.process_count(),
        )
        saver = Saver(run.checkpoints, every_minutes=config.checkpoint.every_minutes)
        step, exit_code, metrics = start, exits.DONE, {}

        def poll() -> bool:
            run.watchdog.beat()
            return run.preemption.poll()

        def save(*, last: bool) -> None:
            log.pause("save")  # every line before the checkpoint is on disk before the checkpoint
            saver.save(step, state, run=stage.record(step), metrics=metrics, last=last)

        # 5. The loop: preempted? evaluate, save, next batch, step, log. Never in another order: a
        # run that is killed between any two of them must do the same again.
        while True:
            if poll():
                exit_code = run.preemption.exit_code
                save(last=True)
                break
            try:
                metrics = evaluations.measure_due(step, state.to_evaluate, poll=poll, log=log)
            except Preempted:
                continue  # the next poll says so too
            if step > start and (
                step == end
                or step % stage.horizon.save_every == 0
                or (step % stage.horizon.log_every == 0 and saver.time_is_up())
            ):
                save(last=step == end)
            if step >= end:
                break
            profiler.before(step)
            clock.enter("data_wait")
            host_batch, info = next(batches)
            batch = stage.to_device(host_batch)
            clock.enter("replay" if step < done_before else "train")
            state, step_metrics = step_function(state, batch)
            step, metrics = step + 1, {}
            log.step(step, step_metrics, counts=bad_records.count(info))

    # 6. The end of the stage, or of this start.
    profiler.close()
    log.close()
    if replaced := bad_records.describe():
        print(f"process {jax.process_index()}: {replaced}", flush=True)
    if step == run.total or exit_code != exits.DONE:
        log.end(step, complete=exit_code == exits.DONE)
    return step, state, exit_code


def _summary_and_reports(
    run: Run, stage: OpenStage, evaluations: Evaluations, *, start: int
) -> list[RunReport]:
    """Print what is about to be trained, and open the report on it; none but on the lead."""
    config = stage.config
    notes = [
        *summary.batch_notes(config, per_batch=stage.examples.progress(config.batch_size)),
        *(build_model.weights_notes(config) if start == 0 else []),
        *evaluations.warnings,
    ]
    if run.writer is None:
        return []
    known = {"evaluators": evaluations.opened, "notes": notes}
    line = summary.describe(stage, total=run.total, start=start, workdir=run.workdir, **known)
    print(line, flush=True)
    report = RunReport(
        run.workdir,
        log=run.writer.local,
        config=config,
        total_steps=run.total,
        source=run.source,
        **known,
    )
    report.samples(stage.examples, start=stage.stage.examples(start))
    return [report]
