"""Training, one straight line: devices, data, program, state, loop. Called by `main`."""

import contextlib
import dataclasses
import functools
import time
from typing import Any

import jax

from clipjax.build import data as build_data
from clipjax.build import model as build_model
from clipjax.build import program as build
from clipjax.common import exits
from clipjax.config import Config
from clipjax.config.stages import Stage
from clipjax.data import loader
from clipjax.evals.embed import Preempted
from clipjax.parallel import compilation_cache, distributed, sharding, shutdown
from clipjax.run import folder as run_folder
from clipjax.run import lease, summary
from clipjax.run import record as run_record
from clipjax.run import report as reports
from clipjax.run import summary_tables as tables
from clipjax.run.evaluation import Evaluations
from clipjax.run.run import Run, open_run
from clipjax.training.bad_records import BadRecords
from clipjax.training.carry_over import carry_over
from clipjax.training.checkpoint.saver import Saver
from clipjax.training.logging.metric_writer import evaluated_before, last_step
from clipjax.training.logging.step_log import StepLog
from clipjax.training.profile import Profiler


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
    with shutdown.together():
        run_folder.check_same(config)
        with lease.hold(workdir):
            run_folder.open_for_training(workdir, config, allow_config_change=allow_config_change)
            return _train(config, workdir=workdir)


def _train(config: Config, *, workdir: str) -> int:
    compilation_cache.enable(config.compilation_cache)
    run = open_run(config, workdir=workdir)
    if run.is_complete():
        run.close()
        return exits.DONE
    (step, state), exit_code = run.newest_state(), exits.DONE
    for stage in run.stages:
        ahead = step < stage.last_step or stage is run.stages[-1]
        if ahead and exit_code == exits.DONE:
            step, state, exit_code = _stage(run, stage, start=step, state=state)
    run.end(step, exit_code=exit_code)
    return exit_code


def _stage(run: Run, stage: Stage, *, start: int, state: Any) -> tuple[int, Any, int]:
    """Train from `start` to the stage's end: (step, state, exit code)."""
    config, source, writer, goodput = stage.config, run.source, run.writer, run.goodput
    run.watchdog.start()

    # Data
    mesh = build.mesh(config)
    horizon = build.horizon(config, epoch_examples=len(source))
    tokenizer = run.tokenizers[stage.name]
    examples = build_data.examples(config, source=source, tokenizer=tokenizer)
    opened = functools.partial(
        build_data.evaluator, config, mesh=mesh, tokenizer=tokenizer, training=source
    )
    evaluations = Evaluations(
        opened,
        every=horizon.evals_every,
        start=start,
        total=run.total,
        trusted=evaluated_before(writer) | run.evaluators_opened,
        evaluated=evaluated_before(writer, step=start),
        where=f"{run.workdir}/{stage.name}",
    )

    run.evaluators_opened |= set(evaluations.opened)

    # Program and state
    program = run.program(stage)
    build_model.check_kernels(config, mesh=mesh)
    state = carry_over(state, program.abstract_state)
    goodput.enter("init")
    done_before = last_step(writer)
    notes = summary.batch_notes(config, per_batch=examples.progress(config.batch_size))
    notes += build_model.weights_notes(config) if start == 0 else []
    notes += evaluations.warnings
    if writer is not None:
        print(
            summary.describe(
                stage,
                mesh=mesh,
                state=program.abstract_state,
                horizon=dataclasses.replace(horizon, total=run.total),
                source=source,
                evaluators=evaluations.opened,
                progress=examples.progress(stage.examples(stage.last_step)),
                start=start,
                workdir=run.workdir,
                notes=notes,
            ),
            flush=True,
        )
    report = reports.open_report(
        run.workdir,
        log=writer.local if writer is not None else None,
        evaluators=evaluations.opened,
        config=config,
        total_steps=run.total,
        source=source,
        notes=notes,
    )
    reports.show_samples(report, examples, start=stage.examples(start))
    batches = loader.train_batches(  # starts to fill while the program compiles
        examples,
        start=stage.examples(start),
        batch_size=config.batch_size,
        rows=sharding.local_rows(config.batch_size, mesh=mesh),
        num_workers=config.data.num_workers,
    )
    with contextlib.closing(batches):
        goodput.enter("compile")
        step_function = build.compile_step(config, program, mesh=mesh)

        # The loop
        log = StepLog(
            writer,
            start=start,
            total=run.total,
            batch_size=config.batch_size,
            examples=stage.examples,
            log_every=horizon.log_every,
            peak_share=build_model.peak_share(config, mesh=mesh),
            progress=examples.progress,
            times=goodput.metrics,
        )
        log.say(tables.plan(config, step_function, program=program, mesh=mesh))
        profiler = Profiler(
            run.workdir,
            window=config.profile,
            look_every=horizon.log_every if distributed.is_lead() else 0,
        )
        bad_records = BadRecords(
            max_fraction=config.data.max_bad_fraction,
            sources=getattr(source, "names", (source.name,)),
            seen=stage.examples(start) // jax.process_count(),
        )
        step, exit_code, metrics = start, exits.DONE, {}
        saver = Saver(run.checkpoints, every_minutes=config.checkpoint.every_minutes)

        def poll() -> bool:
            run.watchdog.beat()
            return run.preemption.poll()

        def save(*, last: bool = False) -> None:
            goodput.enter("save")
            record = run_record.make(stage, step=step, source=source, tokenizer=tokenizer)
            log.flush()  # every line before the checkpoint is on disk before the checkpoint is
            saver.save(step, state, run=record, metrics=metrics, last=last)

        while True:
            if poll():
                exit_code = run.preemption.exit_code
                save(last=True)
                break
            goodput.enter("eval")
            try:
                metrics = {}
                for name in (due := evaluations.due(step)):
                    metrics |= evaluations.measure(
                        name, step, state.to_evaluate, poll=poll, log=log
                    )
                if due:
                    log.pause()
                    reports.show_evaluation(report, step, details=evaluations.details)
                    log.resume()
            except Preempted:
                continue  # the next poll says so too
            if step > start and (
                step == stage.last_step
                or step % horizon.save_every == 0
                or (step % horizon.log_every == 0 and saver.time_is_up())
            ):
                save(last=step == stage.last_step)
            if step >= stage.last_step:
                break
            profiler.before(step)
            goodput.enter("data_wait")
            waiting = time.perf_counter()
            host_batch, info = next(batches)
            batch = sharding.to_device(host_batch, mesh=mesh, batch_size=config.batch_size)
            log.waited(time.perf_counter() - waiting)
            goodput.enter("replay" if step < done_before else "train")
            state, step_metrics = step_function(state, batch)
            step, metrics = step + 1, {}
            log.step(step, step_metrics, counts=bad_records.count(info))
            reports.show_progress(report, step)

    profiler.close()
    log.close()
    if replaced := bad_records.describe():
        print(f"process {jax.process_index()}: {replaced}", flush=True)
    if step == run.total or exit_code != exits.DONE:
        reports.show_end(report, step, complete=exit_code == exits.DONE)
    return step, state, exit_code
