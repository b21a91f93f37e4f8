"""What every setting of `clipjax.config` may be; `config.check` holds a config against it.

Groups are dicts as in the config; "*" stands for the names that a user gives to stages, evaluators
and sources. The fields of `config.model` have their ranges in `models/config.py`. What must go
together (a warm-up within the run, a loss with its bias) is in `config_check`.
"""

from typing import Any

from clipjax import evals, losses, optim
from clipjax.common import files
from clipjax.common.ranges import (
    Range,
    duration,
    filled_text,
    flag,
    listed,
    number,
    one_of,
    path,
    regex,
    rules,
    share,
    text,
    whole,
    window,
)
from clipjax.data import sources
from clipjax.models import config as model_config
from clipjax.parallel import PLACEMENT, compiler_options

READY_MADE = ("siglip", "gemma")  # vocabularies of other people, whose end is not the largest id
TOKENIZERS = ("sentencepiece", "clip", *READY_MADE)
FLOAT32 = 3e38  # about the largest
PROCESSES = 1024  # more loader processes than any host has use for

axis = whole(also="-1 for all that remain")
positive = number(above=0)
not_negative = number(0)
factors = rules(number(0), example='(r".*", 1.0)')
placement = Range(
    '"replicate", "fsdp", "shard(dim, axis)" or several joined by "+"',
    lambda value: (
        isinstance(value, str)
        and all(PLACEMENT.fullmatch(part.strip()) for part in value.split("+"))
    ),
)

RECORDS = {
    "source": one_of(sources.SOURCES),
    "path": path(None),
    "name": text,
    "split": filled_text,
    "image_key": text,
    "text_key": text,
    "text_weights": listed(not_negative, kind="chances such as (0.8, 0.2)"),
    "order": one_of(("global", "window")),
    "window": whole(),
    "keep": path(None),
    "index": path(None),
}
PART = RECORDS | {"weight": positive}
STAGE = {
    "until": duration(zero=True),  # `stages.plan` knows what came before
    "batch_size": whole(0),
    "micro_batches": whole(0),
    "image_size": whole(0),
    "context_length": whole(0),
    "patch_dropout": number(0, below=1, also="-1 for the run's"),
}
EVALUATOR = {
    "kind": one_of(evals.KINDS),
    "every": duration(),
    "batch_size": whole(0),
    "source": one_of(sources.SOURCES, empty=True),
    "path": path(None),
    "name": text,
    "split": filled_text,
    "image_key": text,
    "text_key": text,
    "keep": path(None),
    "index": path(None),
    "max_examples": whole(0),
}
NAMES = {  # of evaluators that classify by names
    "classes": path(),
    "templates": listed(filled_text, kind='texts such as ("a photo of a {}",)'),
    "permute_names": flag,
}


def evaluator(settings: Any) -> dict[str, Range]:
    """The ranges of one evaluator, by its kind; one whose kind was changed may keep what the other
    kind has, as long as it is empty."""
    kind = settings.get("kind")
    own = evals.KINDS[kind].settings if isinstance(kind, str) and kind in evals.KINDS else ()
    kept = [key for key in NAMES if key in settings and not settings[key]]
    return EVALUATOR | {key: NAMES[key] for key in NAMES if key in own or key in kept}


SETTINGS: dict[str, Any] = {
    "seed": whole(0, at_most=2**32 - 1),
    "batch_size": whole(),
    "micro_batches": whole(),
    "total": duration(),
    "stages": {"*": STAGE},
    "patch_dropout": share,
    "ema_decay": share,
    "log_every": duration(),
    "wandb": text,
    "join_seconds": whole(),
    "heartbeat_seconds": whole(),
    "watchdog_seconds": not_negative,
    "profile": window,
    "kernels": one_of(("auto", "on", "off")),
    "compiler_options": one_of(compiler_options.NAMES),
    "compilation_cache": path(),
    "mesh": {"data": axis, "fsdp": axis, "tensor": axis},
    "num_slices": whole(),
    "model": Range("a group of settings", lambda value: hasattr(value, "items")),
    "sharding_rules": rules(placement, least=0, example='(r"text/.*", "fsdp")'),
    "init": {
        "weights": path(files.WEIGHTS),
        "towers": listed(one_of(model_config.TOWERS), kind='towers, ("vision", "text")'),
        "resize_positions": flag,
    },
    "loss": {
        "name": one_of(losses.NAMES),
        "block_size": whole(),
        "duplicates": one_of(("negative", *losses.DUPLICATES)),
        "embed_dtype": one_of(model_config.DTYPES),
    },
    "optimizer": {
        "name": one_of(optim.OPTIMIZERS),
        "learning_rate": number(above=0, at_most=FLOAT32),
        "weight_decay": not_negative,
        "beta1": share,
        "beta2": share,
        "epsilon": number(above=0, at_most=1),
        "clip_norm": not_negative,
        "skip_spikes_above": number(above=1, also="0 for off"),
        "decay_factors": factors,
        "learning_rate_factors": factors,
        "layer_decay": number(above=0, at_most=10),
        "bfloat16_weights": listed(regex, kind='regular expressions, (r"text/.*",)'),
        "moments_dtype": one_of(model_config.DTYPES),
    },
    "schedule": {
        "name": one_of(optim.SCHEDULES),
        "warmup": duration(zero=True),
        "cooldown": duration(empty=True),
        "timescale": duration(),
    },
    "data": RECORDS
    | {
        "mixture": {"*": PART},
        "cache_dir": path(()),
        "cache_gigabytes": not_negative,
        "num_workers": whole(0, at_most=PROCESSES),
        "max_bad_fraction": number(0, at_most=1),
    },
    "tokenizer": {"kind": one_of(TOKENIZERS), "path": path(), "max_captions": whole()},
    "checkpoint": {
        "every": duration(),
        "every_minutes": not_negative,
        "keep_last": whole(),
        "keep_every": duration(empty=True),
        "keep_best": {"metric": text, "mode": one_of(("max", "min"))},
    },
    "evals": {"*": evaluator},
}
