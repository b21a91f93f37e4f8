"""From a config to the program of a run: mesh, model, optimizer, step; nothing here computes.

With `build_data` the one reader of config fields besides the programs: everything below takes
plain arguments.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from clipjax import losses
from clipjax.build import model as build_model
from clipjax.common import durations
from clipjax.common.exits import ConfigError
from clipjax.config import Config
from clipjax.models import clip
from clipjax.models.config import patches
from clipjax.optim import OptimizerSettings, schedules
from clipjax.optim import optimizer as optimizers
from clipjax.parallel import compiler_options, same_program, sharding
from clipjax.parallel import mesh as meshes
from clipjax.parallel.mesh import BATCH_AXES
from clipjax.training import objectives
from clipjax.training.forward import make_forward
from clipjax.training.state import TrainState, make_init
from clipjax.training.step import make_train_step


@dataclasses.dataclass(frozen=True)
class Horizon:
    """The run's durations in optimizer steps."""

    total: int
    warmup: int
    cooldown: int
    timescale: int
    log_every: int
    save_every: int
    keep_every: int
    evals_every: dict[str, int]

    @property
    def of_schedule(self) -> dict[str, int]:
        """What `program` takes of it, by its names."""
        return {
            "total_steps": self.total,
            "warmup_steps": self.warmup,
            "cooldown_steps": self.cooldown,
            "timescale_steps": self.timescale,
        }


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


def mesh(config: Config, *, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh of all devices, or of those given; ConfigError if it or the batch does not fit."""
    devices_mesh = meshes.make_mesh(config.mesh, num_slices=config.num_slices, devices=devices)
    meshes.check_batch(config.batch_size, mesh=devices_mesh, where="config.batch_size")
    parts = meshes.batch_shards(devices_mesh) * config.micro_batches
    if config.batch_size % parts:
        raise ConfigError(
            f"config.micro_batches={config.micro_batches}: config.batch_size={config.batch_size}"
            f" does not divide into so many parts on {meshes.batch_shards(devices_mesh)} devices"
        )
    for name, settings in config.evals.items():
        if settings.batch_size:
            meshes.check_batch(
                settings.batch_size, mesh=devices_mesh, where=f"config.evals.{name}.batch_size"
            )
    return devices_mesh


def horizon(config: Config, *, epoch_examples: int | None) -> Horizon:
    """The config's durations in steps; ConfigError if one is no duration."""
    steps = functools.partial(
        durations.steps, batch_size=config.batch_size, epoch_examples=epoch_examples
    )
    cooldown = config.schedule.cooldown
    keep = config.checkpoint.keep_every
    return Horizon(
        total=steps(config.total, where="config.total"),
        warmup=steps(config.schedule.warmup, where="config.schedule.warmup"),
        cooldown=steps(cooldown, where="config.schedule.cooldown") if cooldown else 0,
        timescale=steps(config.schedule.timescale, where="config.schedule.timescale"),
        log_every=steps(config.log_every, where="config.log_every"),
        save_every=steps(config.checkpoint.every, where="config.checkpoint.every"),
        keep_every=steps(keep, where="config.checkpoint.keep_every") if keep else 0,
        evals_every={
            name: steps(settings.every, where=f"config.evals.{name}.every")
            for name, settings in config.evals.items()
        },
    )


def program(
    config: Config,
    *,
    mesh: Mesh,
    total_steps: int,
    warmup_steps: int,
    cooldown_steps: int = 0,
    timescale_steps: int = 1,
    scheduled: Callable[[Any], Any] = lambda step: step,
) -> Program:
    """The training program for a mesh, whose devices may be absent: nothing is allocated.

    The steps are the learning rate's, see `optim/schedules.py`; `scheduled` turns the optimizer's
    steps into them.
    """
    module = build_model.model(config, mesh=mesh)
    init_variables = clip.initialise(module)
    abstract_params = jax.eval_shape(init_variables, jax.random.key(0))["params"]
    trainable = optimizers.trainable(abstract_params, config.optimizer.learning_rate_factors)
    schedule = schedules.make_schedule(
        config.schedule.name,
        peak=config.optimizer.learning_rate,
        total_steps=total_steps,
        warmup_steps=warmup_steps,
        cooldown_steps=cooldown_steps,
        timescale_steps=timescale_steps,
        scheduled=scheduled,
    )
    transformation = optimizer(config, params=abstract_params, schedule=schedule)
    step = make_train_step(
        *make_forward(module, trainable=trainable),
        trainable=trainable,
        objective=objective(config),
        optimizer=transformation,
        schedule=schedule,
        mesh=mesh,
        micro_batches=config.micro_batches,
        ema_decay=config.ema_decay,
        patch_dropout=config.patch_dropout,
        patches=patches(config.model.vision),
        seed=config.seed,
    )
    init = make_init(
        init_variables,
        optimizer=transformation,
        bfloat16_weights=tuple(config.optimizer.bfloat16_weights),
        average=config.ema_decay > 0,
    )
    shapes = jax.eval_shape(init, jax.random.key(0))
    state_shardings = sharding.shardings(shapes, mesh=mesh, rules=config.sharding_rules)
    return Program(
        init=init,
        step=step,
        abstract_state=jax.tree.map(_with_sharding, shapes, state_shardings),
        abstract_batch=abstract_batch(config, mesh=mesh),
        out_shardings=(state_shardings, sharding.replicated(mesh)),
    )


def compile_step(
    config: Config, program: Program, *, mesh: Mesh, **options: str | bool
) -> jax.stages.Compiled:
    """The step as training compiles it; `options` of the compiler besides the config's.

    Raises:
      ConfigError: it is not the same on all processes.
    """
    options |= _compiler_options(config, mesh=mesh)
    lowered = lower_step(program)
    same_program.check(lowered)
    return lowered.compile(compiler_options=options)


def lower_step(program: Program) -> jax.stages.Lowered:
    """The step before it is compiled: state donated, shardings fixed."""
    step = jax.jit(program.step, donate_argnums=0, out_shardings=program.out_shardings)
    return step.lower(program.abstract_state, program.abstract_batch)


def compile_loss(config: Config, *, mesh: Mesh) -> jax.stages.Compiled:
    """The loss alone, value and gradients, on a batch of embeddings of `config.loss.embed_dtype`.

    No program runs it: it shows what the loss needs of the step's memory.
    """
    loss = functools.partial(
        losses.get(config.loss.name),
        mesh=mesh,
        batch_axes=BATCH_AXES,
        **_loss_options(config),
    )

    def value(image_embed: jax.Array, text_embed: jax.Array, scalars: dict[str, jax.Array]) -> Any:
        return loss(image_embed, text_embed, **scalars)

    scalar = jax.ShapeDtypeStruct((), jnp.float32, sharding=sharding.replicated(mesh))
    scalars = {"logit_scale": scalar} | ({"logit_bias": scalar} if config.model.logit_bias else {})
    embed = jax.ShapeDtypeStruct(
        (config.batch_size, config.model.embed_dim),
        jnp.dtype(config.loss.embed_dtype),
        sharding=sharding.batch_sharding(mesh),
    )
    gradient = jax.value_and_grad(value, argnums=(0, 1, 2), has_aux=True)
    loss_alone = jax.jit(gradient).lower(embed, embed, scalars)
    return loss_alone.compile(compiler_options=_compiler_options(config, mesh=mesh))


def _compiler_options(config: Config, *, mesh: Mesh) -> dict[str, str | bool]:
    kind = mesh.devices.flat[0].device_kind
    return compiler_options.find(config.compiler_options, device_kind=kind)


def optimizer(
    config: Config, *, params: Any, schedule: schedules.Schedule
) -> optax.GradientTransformation:
    """The optimizer for parameters of these names."""
    own = {
        field.name: config.optimizer[field.name] for field in dataclasses.fields(OptimizerSettings)
    }
    settings = OptimizerSettings(**own)
    return optimizers.make_optimizer(settings, params, schedule=schedule, seed=config.seed)


def abstract_batch(config: Config, *, mesh: Mesh) -> dict[str, Any]:
    """Shapes, dtypes and shardings of a training batch."""
    size, rows = config.model.vision.image_size, config.batch_size
    shapes = {
        "image": ((rows, size, size, 3), jnp.uint8),
        "text": ((rows, config.model.text.context_length), jnp.int32),
        "record_id": ((rows,), jnp.uint32),
    }
    if config.loss.duplicates != "negative":
        shapes |= dict.fromkeys(("image_id", "text_id"), ((rows,), jnp.uint32))
    split = sharding.batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=split)
        for name, (shape, dtype) in shapes.items()
    }


def objective(config: Config) -> objectives.Objective:
    """What the run minimises."""
    if config.loss.name == losses.LIKELIHOOD:
        return objectives.likelihood
    return objectives.contrastive(
        config.loss.name,
        embed_dtype=config.loss.embed_dtype,
        duplicates=config.loss.duplicates,
        **_loss_options(config),
    )


def _loss_options(config: Config) -> dict[str, Any]:
    blocked = "block_size" in losses.NAMES[config.loss.name].reads
    return {"block_size": config.loss.block_size} if blocked else {}


def _with_sharding(leaf: Any, placement: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placement)
