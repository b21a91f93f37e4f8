"""From a config to the model, its kernels and the weights it starts from; `build.py` trains it."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from clipjax.build import pretrained
from clipjax.common.exits import CleanExit, ConfigError
from clipjax.config import Config
from clipjax.data.tokenizers import Tokenizer, first_difference, kind_of
from clipjax.models import clip, flops
from clipjax.models import config as model_config
from clipjax.models.kernels import self_check
from clipjax.models.kernels.rows import KernelMesh
from clipjax.optim import optimizer as optimizers
from clipjax.parallel import accelerators, sharding
from clipjax.parallel import mesh as meshes
from clipjax.training import averages
from clipjax.training.forward import frozen_towers
from clipjax.training.initial_weights import DESCRIBE, initialise_from
from clipjax.training.state import TrainState

# Settings that change what weights compute, of a tower and of the model.
COMPUTED = ("activation", "layer_norm_epsilon", "pooling", "causal")
IMAGES = ("image_mean", "image_std", "image_resize")
SIZES = ("embed_dim", "width", "patch_size", "vocab_size")  # which no other weights can fit
ONE_DEVICE = {"data": 1, "fsdp": 1, "tensor": 1}


def model(config: Config, *, mesh: Mesh) -> clip.CLIP:
    """The model, its activations pinned to the batch's split, with kernels where wanted."""
    return clip.from_dict(
        config.model.to_dict(),
        constrain=functools.partial(sharding.constrain_batch, mesh=mesh),
        kernel_mesh=_kernel_mesh(config, mesh=mesh),
    )


def check_kernels(config: Config, *, mesh: Mesh) -> None:
    """Compare the kernels that `model` would use with the plain forms, on a device of this process.

    Raises:
      CleanExit: they differ by more than rounding; names by how much and what to do.
    """
    kernel_mesh = _kernel_mesh(
        config, mesh=meshes.make_mesh(ONE_DEVICE, devices=mesh.local_devices[:1])
    )
    if kernel_mesh is None:
        return
    plain = clip.from_dict(config.model.to_dict())
    for tower, (kernels, forms) in self_check.errors(plain, kernel_mesh=kernel_mesh).items():
        if not self_check.passes(kernels, forms):
            raise CleanExit(
                f"the TPU kernels are wrong on {mesh.local_devices[0].device_kind}: error"
                f" {kernels:.2g} in a block of the {tower} tower, where the plain form has"
                f" {forms:.2g}; add --config.kernels=off, and please report this"
            )


def _kernel_mesh(config: Config, *, mesh: Mesh) -> KernelMesh | None:
    on_tpu = mesh.devices.flat[0].platform == "tpu"
    wanted = {"auto": on_tpu, "on": True, "off": False}[config.kernels]
    return KernelMesh(mesh, interpret=not on_tpu) if wanted else None


def initial_state(config: Config, program: Any, *, tokenizer: Tokenizer) -> TrainState:
    """The state that a run begins with, made directly in its shardings; errors as below."""
    check_vocabulary(config, tokenizer)
    init = jax.jit(program.init, out_shardings=program.out_shardings[0])
    return initial_weights(config, init(jax.random.key(config.seed)))


def takes_text(config: Config) -> bool:
    """Whether the text tower starts from the weights that `config.init` names."""
    return bool(config.init.weights) and "text" in config.init.towers


def vocabulary_of_weights(config: Config) -> Tokenizer | None:
    """The vocabulary that the text weights of `config.init` bring; None where it names none.

    Raises:
      ConfigError: they bring none, or one of another kind than `config.tokenizer.kind`.
    """
    if not takes_text(config):
        return None
    kind, where = config.tokenizer.kind, f"config.init.weights={config.init.weights}"
    trained = pretrained.read_tokenizer(config.init.weights)
    if trained is None and kind != "clip":  # which an installed package may bring
        raise ConfigError(
            f"{where}: brings no vocabulary; set config.tokenizer.kind and .path to the one that"
            " its text tower was trained with, or leave text out of config.init.towers"
        )
    if trained is not None and (theirs := kind_of(trained)) != kind:
        raise ConfigError(
            f"config.tokenizer.kind={kind}: {where} brings a vocabulary of kind {theirs}; set"
            f" config.tokenizer.kind={theirs}, or leave text out of config.init.towers"
        )
    return trained


def check_vocabulary(config: Config, tokenizer: Tokenizer) -> None:
    """Raise ConfigError if the text weights that `config.init` names know words by other ids."""
    if not takes_text(config):
        return
    trained = pretrained.read_tokenizer(config.init.weights)
    if trained is not None and (word := first_difference(trained, tokenizer)):
        raise ConfigError(
            f"config.tokenizer.path={config.tokenizer.path}: config.init.weights="
            f"{config.init.weights} were trained with another vocabulary, {word!r} has other ids"
            " there; leave config.tokenizer.path out, and theirs is taken, or leave text out of"
            " config.init.towers"
        )


def weights_notes(config: Config) -> list[str]:
    """Sentences on what this model computes otherwise than the one that the weights of
    `config.init` were trained as, and no parameter's shape tells; mostly none."""
    if not config.init.weights:
        return []
    model, notes = pretrained.read_model(config.init.weights)
    theirs, ours = (model_config.parse(each) for each in (model, config.model.to_dict()))
    compared = [
        (f"{tower}.{key}", getattr(their, key, None), getattr(our, key, None))
        for tower in config.init.towers
        for their, our in [(theirs.tower(tower), ours.tower(tower))]
        for key in COMPUTED
    ]
    if "vision" in config.init.towers:
        compared += [(key, getattr(theirs, key), getattr(ours, key)) for key in IMAGES]
    where = f"config.init.weights={config.init.weights}"
    return [f"{where}: {note}" for note in notes] + [
        f"config.model.{name} is {our}, and {where} was trained with {their}"
        for name, their, our in compared
        if their != our and None not in (their, our)
    ]


def check_sizes(config: Config) -> None:
    """Raise ConfigError where weights of `config.init` cannot fit the model, before data are read.

    What else may not fit (layers, kinds of towers) shows when the weights are read.
    """
    if not config.init.weights:
        return
    differing = shapes_of_weights(config)
    if any(name.rpartition(".")[2] in SIZES for name in differing):
        where = f"config.init.weights={config.init.weights}"
        raise ConfigError(f"{where}: {DESCRIBE}: {_listed(differing)}")


def shapes_of_weights(config: Config) -> dict[str, tuple[Any, Any]]:
    """Setting → (its value in the model of `config.init.weights`, ours), where these differ and a
    parameter's shape may."""
    model, _ = pretrained.read_model(config.init.weights)
    theirs, ours = (model_config.parse(each) for each in (model, config.model.to_dict()))
    others = {*COMPUTED, *IMAGES, *model_config.NOT_SHAPE, *model_config.TOWERS}
    if config.init.resize_positions:
        others |= {"image_size", "context_length"}
    groups = [("", theirs, ours)]
    groups += [(f"{t}.", getattr(theirs, t), getattr(ours, t)) for t in config.init.towers]
    return {
        f"{group}{key}": (value, getattr(our, key))
        for group, their, our in groups
        for key, value in vars(their).items()
        if key not in others and value != getattr(our, key, value)
    }


def _listed(differing: Mapping[str, tuple[Any, Any]]) -> str:
    """ "embed_dim 512 (here 768), vision.layers 12 (here 24)"."""
    return ", ".join(f"{key} {their} (here {our})" for key, (their, our) in differing.items())


def training_flops_per_pair(config: Config) -> float:
    """Model FLOPs of a training step for one pair; a frozen tower has no backward pass."""
    init = clip.initialise(clip.from_dict(config.model.to_dict()))
    params = jax.eval_shape(init, jax.random.key(0))["params"]
    trainable = optimizers.trainable(params, config.optimizer.learning_rate_factors)
    return flops.training_flops_per_pair(
        config.model, frozen=frozen_towers(trainable), patch_dropout=config.patch_dropout
    )


def peak_share(flops_per_pair: float, *, mesh: Mesh) -> float | None:
    """Share of all devices' peak FLOPs that one example a second needs; None on unknown devices."""
    device = accelerators.of_kind(mesh.devices.flat[0].device_kind)
    return flops_per_pair / (device.peak_flops * mesh.size) if device is not None else None


def initial_weights(config: Config, state: TrainState) -> TrainState:
    """The state with the weights that `config.init` names, on the same shardings.

    Raises:
      ConfigError: the weights do not fit the model; names the first parameter that differs, and
        the settings that do. Or a tower is frozen that gets no weights.
    """
    factors = config.optimizer.learning_rate_factors
    for tower in frozen_towers(optimizers.trainable(state.params, factors)):
        if not config.init.weights or tower not in config.init.towers:
            raise ConfigError(
                f"config.init: the {tower} tower is frozen (config.optimizer.learning_rate_factors)"
                f" and would stay random; set config.init.weights and name {tower} in init.towers"
            )
    if not config.init.weights:
        return state
    theirs = pretrained.read_variables(config.init.weights)
    try:
        taken = initialise_from(
            state.variables,
            theirs,
            towers=config.init.towers,
            resize_positions=config.init.resize_positions,
            where=f"config.init.weights={config.init.weights}",
        )
    except ConfigError as error:
        if not (differing := shapes_of_weights(config)):
            raise
        raise ConfigError(f"{error}: {_listed(differing)}") from None
    return state.replace(**taken, average=averages.begin(taken) if state.average else {})
