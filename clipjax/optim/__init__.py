"""Optimizers and schedules by name, with the settings that each reads; imported without jax."""

import dataclasses

from clipjax.common.registry import Entry

# Of `config.defaults()`. Not every model has a parameter that each of them matches; any other
# pattern that matches none is a slip, see `trees.check_matches`.
USUAL_PATTERNS = (r".*/(bias|scale)", r"logit_(scale|bias)", r".*")

OPTIMIZERS = {
    "adamw": Entry("clipjax.optim.optimizer:adam", reads=("epsilon",)),
    "lion": Entry("clipjax.optim.optimizer:lion"),
    "adafactor": Entry("clipjax.optim.optimizer:adafactor"),
    "muon": Entry("clipjax.optim.muon:muon", reads=("epsilon",)),
}
SCHEDULES = {
    "cosine": Entry("clipjax.optim.schedules:cosine"),
    "constant": Entry("clipjax.optim.schedules:constant", reads=("cooldown",)),
    "rsqrt": Entry("clipjax.optim.schedules:rsqrt", reads=("timescale", "cooldown")),
}

Factors = tuple[tuple[str, float], ...]  # (regex, factor): the first match on a whole name wins


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """`config.optimizer`, without what the schedule and the state read of it.

    Attributes:
      name: "adamw", "lion", "adafactor" or "muon".
      weight_decay: times a parameter's decay factor; "all weights that are not gains or biases"
        (paper, section 2.5) is what the default factors say.
      beta1, beta2: decay of the first and second moment. Lion's two (Chen et al. 2023). Adafactor:
        of its momentum, and the most that its growing decay of the second moment reaches. Muon:
        `beta1` is the momentum of its matrices, too; its authors take 0.95.
      epsilon: Adam's.
      decay_factors, learning_rate_factors: (regex, factor); the first match on a parameter's whole
        name wins. A learning rate factor of 0 freezes the parameter: no update, no optimizer state.
      clip_norm: largest global norm of the trainable gradients; 0 is off.
      skip_spikes_above: leave out updates whose gradient norm is over so many times the usual one,
        see `spikes`; 0 is off.
      layer_decay: the learning rate of a tower's last block times this for each block before it,
        see `optimizer.layer_factors`.
      moments_dtype: "float32", or "bfloat16" with stochastic rounding.
    """

    name: str
    weight_decay: float
    beta1: float
    beta2: float
    epsilon: float
    decay_factors: Factors
    learning_rate_factors: Factors
    clip_norm: float = 0.0
    skip_spikes_above: float = 0.0
    layer_decay: float = 1.0
    moments_dtype: str = "float32"
