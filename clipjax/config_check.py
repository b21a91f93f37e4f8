"""What can be wrong with a config, found before anything heavy is imported; `main` calls `check`.

Each check raises ConfigError with one line that names the key, its value and what to do.
"""

from typing import Any

from clipjax import evals, losses, optim, stages
from clipjax.common import durations
from clipjax.common.exits import ConfigError
from clipjax.common.registry import check_name
from clipjax.config import Config, flatten
from clipjax.data import sources
from clipjax.models import config as model_config
from clipjax.models import zoo
from clipjax.parallel import compiler_options

DTYPES = ("float32", "bfloat16")
KERNELS = ("auto", "on", "off")
READY_MADE = ("siglip", "gemma")  # vocabularies of other people, whose end is not the largest id
TOKENIZERS = ("sentencepiece", "clip", *READY_MADE)
NO_DATA = """config.data names no data to train on; add one of
  --config.data.source=tfds --config.data.name=NAME --config.data.path=DATA_DIR
  --config.data.source=tar --config.data.path='SHARDS/{00000..00999}.tar'
  --config.data.source=scenes"""


def check(config: Config, *, data: bool = True) -> None:
    """Raise ConfigError on the first setting that cannot work; `data` asks for data to train on."""
    _check_model(config.model)
    _check_names(config)
    _check_text_kind(config)
    _check_positive(config)
    _check_durations(config)
    durations.step_window(config.profile, where="config.profile")
    _check_mesh(config.mesh)
    _check_best(config)
    _check_shares(config)
    _check_stages(config)
    if data:
        _check_data(config.data)


def _fail(key: str, value: Any, problem: str) -> None:
    raise ConfigError(f"config.{key}={value}: {problem}")


def _check_model(model: Config) -> None:
    model_config.parse(model.to_dict(), where="config.model")
    for key in ("dtype", "param_dtype"):
        check_name(model[key], names=DTYPES, kind=f"config.model.{key}")
    check_name(model.name, names=[*zoo.MODELS, "custom"], kind="config.model.name")
    if model.name != "custom":
        _check_against_zoo(model)


def _check_against_zoo(model: Config) -> None:
    released = zoo.get(model.name)
    ours = flatten(model)
    for name, theirs in flatten(released).items():
        if ours[name] != theirs and name not in model_config.NOT_SHAPE:
            _fail(
                f"model.{name}",
                ours[name],
                f"contradicts model.name={model.name}, which has {theirs};"
                " add --config.model.name=custom to train another shape",
            )


def _check_names(config: Config) -> None:
    names = (*losses.LOSSES, losses.LIKELIHOOD)
    check_name(config.loss.name, names=names, kind="config.loss.name")
    if config.loss.name.startswith("sigmoid") and not config.model.logit_bias:
        _fail("loss.name", config.loss.name, "needs a bias; add --config.model.logit_bias=True")
    duplicates = ("negative", *losses.DUPLICATES)
    check_name(config.loss.duplicates, names=duplicates, kind="config.loss.duplicates")
    check_name(config.loss.embed_dtype, names=DTYPES, kind="config.loss.embed_dtype")
    check_name(config.optimizer.name, names=optim.OPTIMIZERS, kind="config.optimizer.name")
    check_name(config.optimizer.moments_dtype, names=DTYPES, kind="config.optimizer.moments_dtype")
    check_name(config.kernels, names=KERNELS, kind="config.kernels")
    check_name(
        config.compiler_options, names=compiler_options.NAMES, kind="config.compiler_options"
    )
    check_name(config.schedule.name, names=optim.SCHEDULES, kind="config.schedule.name")
    check_name(config.tokenizer.kind, names=TOKENIZERS, kind="config.tokenizer.kind")
    brought = config.init.weights and "text" in config.init.towers
    if config.tokenizer.kind in READY_MADE and not config.tokenizer.path and not brought:
        _fail("tokenizer.path", "", f"name the vocabulary of kind {config.tokenizer.kind}")
    for name, settings in config.evals.items():
        check_name(settings.kind, names=evals.KINDS, kind=f"config.evals.{name}.kind")
        if settings.source:
            check_name(settings.source, names=sources.SOURCES, kind=f"config.evals.{name}.source")
            if settings.source not in sources.OWN and not (settings.name or settings.path):
                _fail(
                    f"evals.{name}.source", settings.source, f"set evals.{name}.path or .name too"
                )
    for tower in config.init.towers:
        check_name(tower, names=("vision", "text"), kind="config.init.towers")


def _check_text_kind(config: Config) -> None:
    kind = config.model.text.kind
    predicts = kind in model_config.PREDICTING
    if predicts != (config.loss.name == losses.LIKELIHOOD):
        wanted = losses.LIKELIHOOD if predicts else f"one of {', '.join(losses.LOSSES)}"
        _fail("loss.name", config.loss.name, f"model.text.kind={kind} needs {wanted}")
    if kind != "transformer" and config.tokenizer.kind in READY_MADE:
        _fail(
            "tokenizer.kind",
            config.tokenizer.kind,
            f"model.text.kind={kind} needs the end as largest id",
        )
    for name, settings in config.evals.items():
        if predicts != (settings.kind in evals.PREDICTING):
            fit = [each for each in evals.KINDS if predicts == (each in evals.PREDICTING)]
            _fail(
                f"evals.{name}.kind",
                settings.kind,
                f"cannot measure model.text.kind={kind}, which takes {', '.join(fit)}",
            )


def _check_positive(config: Config) -> None:
    for key, value in {
        "batch_size": config.batch_size,
        "num_slices": config.num_slices,
        "join_seconds": config.join_seconds,
        "heartbeat_seconds": config.heartbeat_seconds,
        "micro_batches": config.micro_batches,
        "loss.block_size": config.loss.block_size,
        "checkpoint.keep_last": config.checkpoint.keep_last,
        "optimizer.learning_rate": config.optimizer.learning_rate,
        "optimizer.layer_decay": config.optimizer.layer_decay,
    }.items():
        if value <= 0:
            _fail(key, value, "must be positive")
    for key, value in {
        "watchdog_seconds": config.watchdog_seconds,
        "data.num_workers": config.data.num_workers,
        "data.cache_gigabytes": config.data.cache_gigabytes,
        "optimizer.clip_norm": config.optimizer.clip_norm,
        "optimizer.skip_spikes_above": config.optimizer.skip_spikes_above,
        "optimizer.weight_decay": config.optimizer.weight_decay,
        "checkpoint.every_minutes": config.checkpoint.every_minutes,
    }.items():
        if value < 0:
            _fail(key, value, "must not be negative")


def _check_durations(config: Config) -> None:
    texts = {
        "total": config.total,
        "log_every": config.log_every,
        "schedule.warmup": config.schedule.warmup,
        "schedule.timescale": config.schedule.timescale,
        "checkpoint.every": config.checkpoint.every,
    }
    if config.checkpoint.keep_every:
        texts["checkpoint.keep_every"] = config.checkpoint.keep_every
    if config.schedule.cooldown:
        texts["schedule.cooldown"] = config.schedule.cooldown
        if config.schedule.name == "cosine":
            _fail("schedule.cooldown", config.schedule.cooldown, "cosine ends at zero without one")
    texts |= {f"evals.{name}.every": settings.every for name, settings in config.evals.items()}
    amounts = {
        key: durations.parse(text, where=f"config.{key}").amount for key, text in texts.items()
    }
    for key, amount in amounts.items():
        if amount <= 0 and key != "schedule.warmup":
            _fail(key, texts[key], "must be positive")
    total, warmup = (durations.parse(texts[k], where=k) for k in ("total", "schedule.warmup"))
    batch = {"steps": config.batch_size, "examples": 1}
    comparable = total.unit in batch and warmup.unit in batch
    if comparable and warmup.amount * batch[warmup.unit] > total.amount * batch[total.unit]:
        _fail(
            "schedule.warmup",
            config.schedule.warmup,
            f"is longer than the whole run, config.total={config.total}",
        )


def _check_mesh(mesh: Config) -> None:
    sizes = list(mesh.values())
    if sizes.count(-1) > 1 or any(size == 0 or size < -1 for size in sizes):
        _fail("mesh", dict(mesh), "axes are positive, and at most one is -1 (all that remain)")


def _check_best(config: Config) -> None:
    best = config.checkpoint.keep_best
    check_name(best.mode, names=("max", "min"), kind="config.checkpoint.keep_best.mode")
    if best.metric and best.metric.split("/")[1:2] not in [[name] for name in config.evals]:
        _fail(
            "checkpoint.keep_best.metric",
            best.metric,
            'is no metric of an evaluator; write "eval/<name>/<metric>", <name> of config.evals:'
            f" {', '.join(config.evals) or 'there are none'}",
        )


def _check_shares(config: Config) -> None:
    own = {"patch_dropout": config.patch_dropout}
    for name, stage in config.stages.items():
        if stage.patch_dropout != -1:
            own[f"stages.{name}.patch_dropout"] = stage.patch_dropout
    for key, value in own.items():
        if not 0 <= value < 1:
            _fail(key, value, "must be at least 0, off, and below 1, as 0.5")
        if value and config.model.vision.kind != "vit":
            _fail(key, value, f"a {config.model.vision.kind} has no patches; set it to 0")
    if not 0 <= config.ema_decay < 1:
        _fail("ema_decay", config.ema_decay, "must be at least 0, off, and below 1, as 0.9999")


def _check_stages(config: Config) -> None:
    for name, stage in config.stages.items():
        for key in ("batch_size", "micro_batches", "image_size", "context_length"):
            if stage[key] < 0:
                _fail(f"stages.{name}.{key}", stage[key], "must be positive, or 0 for the run's")
        durations.parse(stage.until, where=f"config.stages.{name}.until")
        try:
            _check_model(stages.settings(config, name).model)
        except ConfigError as error:
            raise ConfigError(f"config.stages.{name}: {error}") from error
    texts = [config.total, *(stage.until for stage in config.stages.values())]
    if config.stages and not any("epoch" in text for text in texts):
        stages.plan(config, epoch_examples=None)


def _check_data(data: Config) -> None:
    for name, part in data.mixture.items():
        _check_records(part, where=f"data.mixture.{name}")
        if part.weight <= 0:
            _fail(f"data.mixture.{name}.weight", part.weight, "must be positive")
        if part.source not in sources.OWN and not (part.name or part.path):
            _fail(f"data.mixture.{name}.source", part.source, "set its path or name too")
    ignored = [key for key in ("path", "name", "keep", "index") if data.mixture and data[key]]
    if ignored:
        _fail(f"data.{ignored[0]}", data[ignored[0]], "has no effect beside config.data.mixture")
    _check_records(data, where="data")
    if not data.mixture and data.source not in sources.OWN and not (data.name or data.path):
        raise ConfigError(NO_DATA)


def _check_records(data: Config, *, where: str) -> None:
    check_name(data.source, names=sources.SOURCES, kind=f"config.{where}.source")
    check_name(data.order, names=("global", "window"), kind=f"config.{where}.order")
    if data.order == "window" and data.source not in sources.SHARDED:
        _fail(
            f"{where}.order",
            data.order,
            f"needs a source of shards ({', '.join(sources.SHARDED)}), not {data.source}",
        )
    if data.window < 1:
        _fail(f"{where}.window", data.window, "must be at least 1")
    weights, fields = data.text_weights, data.text_key.split(",")
    if weights and (len(weights) != len(fields) or min(weights) < 0 or not sum(weights)):
        _fail(
            f"{where}.text_weights",
            tuple(weights),
            f"needs one chance for each of the {len(fields)} fields of {where}.text_key",
        )
