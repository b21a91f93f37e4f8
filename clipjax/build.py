"""From a config to the program of a run: mesh, model, optimizer, step; nothing here computes.

With `build_data` the one reader of config fields besides the programs: everything below takes
plain arguments.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from clipjax.common import durations
from clipjax.common.exits import ConfigError
from clipjax.config import Config
from clipjax.models import clip, flops
from clipjax.optim import optimizer as optimizers
from clipjax.optim import schedules
from clipjax.parallel import accelerators, sharding
from clipjax.parallel import mesh as meshes
from clipjax.training import objectives
from clipjax.training.checkpoint import restore_params
from clipjax.training.initial_weights import initialise_from
from clipjax.training.state import TrainState, make_init
from clipjax.training.step import make_train_step


@dataclasses.dataclass(frozen=True)
class Horizon:
    """The run's durations in optimizer steps."""

    total: int
    warmup: int
    log_every: int
    save_every: int
    keep_every: int
    evals_every: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Program:
    """What is compiled: shapes, shardings and the two functions of training.

    Attributes:
      init: key → TrainState.
      step: (state, batch) → (state, metrics).
      abstract_state: TrainState of jax.ShapeDtypeStruct with shardings.
      abstract_batch: batch of jax.ShapeDtypeStruct with shardings.
      out_shardings: of `step`.
    """

    init: Callable[[jax.Array], TrainState]
    step: Callable[..., Any]
    abstract_state: Any
    abstract_batch: dict[str, Any]
    out_shardings: Any


def mesh(config: Config) -> Mesh:
    """The device mesh; ConfigError if it or the batch does not fit the devices."""
    made = meshes.make_mesh(config.mesh, num_slices=config.num_slices)
    meshes.check_batch(config.batch_size, mesh=made, where="config.batch_size")
    parts = meshes.batch_shards(made) * config.micro_batches
    if config.batch_size % parts:
        raise ConfigError(
            f"config.micro_batches={config.micro_batches}: config.batch_size={config.batch_size}"
            f" does not divide into so many parts on {meshes.batch_shards(made)} devices"
        )
    for name, settings in config.evals.items():
        if settings.batch_size:
            meshes.check_batch(
                settings.batch_size, mesh=made, where=f"config.evals.{name}.batch_size"
            )
    return made


def horizon(config: Config, *, epoch_examples: int | None) -> Horizon:
    """The config's durations in steps.

    Raises:
      ConfigError: one is no duration, or warm-up is longer than the run.
    """
    steps = functools.partial(
        durations.steps, batch_size=config.batch_size, epoch_examples=epoch_examples
    )
    total = steps(config.total, where="config.total")
    warmup = steps(config.schedule.warmup, where="config.schedule.warmup")
    if warmup > total:
        raise ConfigError(
            f"config.schedule.warmup={config.schedule.warmup} is {warmup:,} steps, longer than"
            f" the whole run of {total:,}"
        )
    keep = config.checkpoint.keep_every
    return Horizon(
        total=total,
        warmup=warmup,
        log_every=steps(config.log_every, where="config.log_every"),
        save_every=steps(config.checkpoint.every, where="config.checkpoint.every"),
        keep_every=steps(keep, where="config.checkpoint.keep_every") if keep else 0,
        evals_every={
            name: steps(settings.every, where=f"config.evals.{name}.every")
            for name, settings in config.evals.items()
        },
    )


def model(config: Config, *, mesh: Mesh) -> clip.CLIP:
    """The model, its activations pinned to the batch's split."""
    return clip.from_dict(
        config.model.to_dict(), constrain=functools.partial(sharding.constrain_batch, mesh=mesh)
    )


def program(config: Config, *, mesh: Mesh, total_steps: int, warmup_steps: int) -> Program:
    """The training program for a mesh, whose devices may be absent: nothing is allocated."""
    module = model(config, mesh=mesh)
    init_params = clip.initialise(module)
    abstract_params = jax.eval_shape(init_params, jax.random.key(0))
    schedule = schedules.make_schedule(
        config.schedule.name,
        peak=config.optimizer.learning_rate,
        total_steps=total_steps,
        warmup_steps=warmup_steps,
    )
    transformation = optimizer(config, params=abstract_params, schedule=schedule)
    blocked = {} if config.loss.name == "softmax_gather" else {"block_size": config.loss.block_size}
    objective = objectives.contrastive(
        config.loss.name, embed_dtype=config.loss.embed_dtype, **blocked
    )
    step = make_train_step(
        lambda params, image, text: module.apply({"params": params}, image, text, method="embed"),
        lambda params: module.apply({"params": params}, method="scalars"),
        objective=objective,
        optimizer=transformation,
        schedule=schedule,
        mesh=mesh,
        micro_batches=config.micro_batches,
    )
    init = make_init(init_params, optimizer=transformation)
    shapes = jax.eval_shape(init, jax.random.key(0))
    state_shardings = sharding.shardings(shapes, mesh=mesh, rules=config.sharding_rules)
    return Program(
        init=init,
        step=step,
        abstract_state=jax.tree.map(_with_sharding, shapes, state_shardings),
        abstract_batch=abstract_batch(config, mesh=mesh),
        out_shardings=(state_shardings, sharding.replicated(mesh)),
    )


def optimizer(
    config: Config, *, params: Any, schedule: schedules.Schedule
) -> optax.GradientTransformation:
    """The optimizer for parameters of these names."""
    settings = config.optimizer
    return optimizers.make_optimizer(
        params,
        schedule=schedule,
        weight_decay=settings.weight_decay,
        beta1=settings.beta1,
        beta2=settings.beta2,
        epsilon=settings.epsilon,
        clip_norm=settings.clip_norm,
        decay_factors=settings.decay_factors,
        learning_rate_factors=settings.learning_rate_factors,
    )


def initial_weights(config: Config, state: TrainState) -> TrainState:
    """The state with the weights that `config.init` names, on the same shardings.

    Raises:
      ConfigError: the weights do not fit the model; names the first parameter that differs.
    """
    if not config.init.weights:
        return state
    params, _ = restore_params(config.init.weights)
    taken = initialise_from(
        state.params,
        params,
        towers=config.init.towers,
        resize_positions=config.init.resize_positions,
        where=f"config.init.weights={config.init.weights}",
    )
    return state.replace(params=taken)


def peak_share(config: Config, *, mesh: Mesh) -> float | None:
    """Share of all devices' peak FLOPs that one example a second needs; None on unknown devices."""
    device = accelerators.of_kind(mesh.devices.flat[0].device_kind)
    if device is None:
        return None
    return flops.training_flops_per_pair(config.model) / (device.peak_flops * mesh.size)


def abstract_batch(config: Config, *, mesh: Mesh) -> dict[str, Any]:
    """Shapes, dtypes and shardings of a training batch."""
    size, rows = config.model.vision.image_size, config.batch_size
    shapes = {
        "image": ((rows, size, size, 3), jnp.uint8),
        "text": ((rows, config.model.text.context_length), jnp.int32),
        "record_id": ((rows,), jnp.uint32),
    }
    split = sharding.batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=split)
        for name, (shape, dtype) in shapes.items()
    }


def _with_sharding(leaf: Any, placement: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placement)
