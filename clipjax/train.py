"""Training, one straight line: devices, data, program, state, loop. Called by `main`."""

import contextlib
import functools
import time

import jax

from clipjax import (
    build,
    build_data,
    build_model,
    lease,
    run_folder,
    run_record,
    summary,
    summary_tables,
)
from clipjax import config as settings
from clipjax import report as reports
from clipjax.common import exits
from clipjax.config import Config
from clipjax.data import loader
from clipjax.evals.embed import Preempted
from clipjax.parallel import compilation_cache, distributed, leaving, sharding
from clipjax.parallel.preemption import Preemption
from clipjax.training.bad_records import BadRecords
from clipjax.training.checkpoint import Checkpoints
from clipjax.training.goodput import Goodput
from clipjax.training.metric_writer import MetricWriter, evaluated_before, last_step
from clipjax.training.profile import Profiler
from clipjax.training.resume import restore_newest
from clipjax.training.saver import Saver
from clipjax.training.step_log import StepLog
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
    with leaving.together():
        run_folder.check_same(config)
        with lease.hold(workdir):
            run_folder.open_for_training(workdir, config, allow_config_change=allow_config_change)
            return _train(config, workdir=workdir)


def _train(config: Config, *, workdir: str) -> int:
    goodput = Goodput()

    # Devices
    watchdog = Watchdog(config.watchdog_seconds)
    preemption = Preemption()
    compilation_cache.enable(config.compilation_cache)
    mesh = build.mesh(config)

    # Data
    source = build_data.source(
        config.data, image_size=config.model.vision.image_size, seed=config.seed
    )
    horizon = build.horizon(config, epoch_examples=len(source))
    tokenizer = build_data.tokenizer(config, source=source, workdir=workdir)
    examples = build_data.examples(config, source=source, tokenizer=tokenizer)
    evaluators = build_data.evaluators(config, mesh=mesh, tokenizer=tokenizer)

    # Where the run stands
    best = config.checkpoint.keep_best
    checkpoints = Checkpoints(
        workdir,
        keep_last=config.checkpoint.keep_last,
        keep_every=horizon.keep_every,
        best_metric=best.metric,
        best_mode=best.mode,
    )
    start = checkpoints.latest() or 0
    writer = (
        MetricWriter(workdir, config=settings.to_keep(config), wandb_project=config.wandb)
        if distributed.is_lead()
        else None
    )
    evaluated = evaluated_before(writer, step=start)
    if start >= horizon.total and all(name in evaluated for name in evaluators):
        if writer is not None:
            writer.close()
            print(
                f"{workdir}: the run is complete, step {start:,} of {horizon.total:,};"
                " to go on, raise --config.total and add --allow_config_change"
            )
        return exits.DONE

    # The program
    program = build.program(config, mesh=mesh, **horizon.of_schedule)
    build_model.check_kernels(config, mesh=mesh)

    # The state
    goodput.enter("restore")
    found = restore_newest(
        checkpoints,
        program.abstract_state,
        check=functools.partial(
            run_record.check, source=source, tokenizer=tokenizer, workdir=workdir
        ),
    )
    if found is not None:
        start, state = found
    else:
        init = jax.jit(program.init, out_shardings=program.out_shardings[0])
        start, state = 0, init(jax.random.key(config.seed))
        state = build_model.initial_weights(config, state)
    goodput.enter("init")
    evaluated = evaluated_before(writer, step=start)
    done_before = last_step(writer)
    if writer is not None:
        print(
            summary.describe(
                config,
                mesh=mesh,
                state=program.abstract_state,
                horizon=horizon,
                source=source,
                progress=examples.progress(horizon.total * config.batch_size),
                start=start,
                workdir=workdir,
            ),
            flush=True,
        )
    report = reports.open_report(
        workdir,
        log=writer.local if writer is not None else None,
        evaluators=evaluators,
        config=config,
        total_steps=horizon.total,
        source=source,
    )
    reports.show_samples(report, examples, start=start * config.batch_size)
    batches = loader.train_batches(  # starts to fill while the program compiles
        examples,
        start=start * config.batch_size,
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
            total=horizon.total,
            batch_size=config.batch_size,
            log_every=horizon.log_every,
            peak_share=build.peak_share(config, mesh=mesh),
            progress=examples.progress,
            times=goodput.metrics,
        )
        log.say(summary_tables.plan(config, step_function, program=program, mesh=mesh))
        profiler = Profiler(
            workdir,
            window=config.profile,
            look_every=horizon.log_every if distributed.is_lead() else 0,
        )
        bad_records = BadRecords(
            max_fraction=config.data.max_bad_fraction,
            sources=getattr(source, "names", (source.name,)),
            seen=start * config.batch_size // jax.process_count(),
        )
        step, exit_code, metrics = start, exits.DONE, {}
        saver = Saver(checkpoints, every_minutes=config.checkpoint.every_minutes)

        def poll() -> bool:
            watchdog.beat()
            return preemption.poll()

        def save(*, last: bool = False) -> None:
            goodput.enter("save")
            run = run_record.make(config, step=step, source=source, tokenizer=tokenizer)
            log.flush()  # every line before the checkpoint is on disk before the checkpoint is
            saver.save(step, state, run=run, metrics=metrics, last=last)

        while True:
            if poll():
                exit_code = preemption.exit_code
                save(last=True)
                break
            goodput.enter("eval")
            try:
                metrics = {}
                for name, evaluator in evaluators.items():
                    due = step and (step % horizon.evals_every[name] == 0 or step == horizon.total)
                    if due and not (step == start and name in evaluated):
                        log.pause()
                        values = evaluator(state.params, poll=poll)
                        named = {f"eval/{name}/{key}": value for key, value in values.items()}
                        log.evaluation(step, named)
                        log.resume()
                        metrics |= named
                if metrics:
                    log.pause()
                    details = {name: e.details for name, e in evaluators.items()}
                    reports.show_evaluation(report, step, details=details)
                    log.resume()
            except Preempted:
                continue  # the next poll says so too
            if step > start and (
                step == horizon.total
                or step % horizon.save_every == 0
                or (step % horizon.log_every == 0 and saver.time_is_up())
            ):
                save(last=step == horizon.total)
            if step >= horizon.total:
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

    # The end
    watchdog.close()
    profiler.close()
    log.close()
    checkpoints.close()
    if writer is not None:
        writer.close()
        reports.show_end(report, step, complete=exit_code == exits.DONE)
        ended = "complete" if exit_code == exits.DONE else f"saved, leaving with {exit_code}"
        print(f"{workdir}: step {step:,} of {horizon.total:,}, {ended}; {goodput.describe()}")
    return exit_code
