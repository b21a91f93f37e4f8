"""What can be wrong with a config, found before anything heavy is imported; `main` calls `check`.

First every setting by itself, as `config_ranges` says, then what must go together. Each fault is a
ConfigError of one line that names the key, its value and what to do.
"""

from collections.abc import Mapping
from typing import Any

from clipjax import evals, losses, optim
from clipjax.common import durations
from clipjax.common.exits import ConfigError
from clipjax.common.ranges import as_flag, shown
from clipjax.common.registry import check_name
from clipjax.common.setting_names import closest_setting
from clipjax.config import Config, defaults, flatten, stages
from clipjax.config import unused as unused_settings
from clipjax.config.ranges import READY_MADE, SETTINGS
from clipjax.data import sources
from clipjax.models import config as model_config
from clipjax.models import zoo

NO_DATA = """config.data names no data to train on; add one of
  --config.data.source=tfds --config.data.name=NAME --config.data.path=DATA_DIR
  --config.data.source=tar --config.data.path='SHARDS/{00000..00999}.tar'
  --config.data.source=scenes"""
MOST_STEPS = 2**31 - 1  # the step is an int32 on the device


def check(config: Config, *, data: bool = True) -> None:
    """Raise ConfigError on the first setting that cannot work; `data` asks for data to train on."""
    _check_group(config, SETTINGS, where="config")
    _check_model(config.model)
    _check_loss(config)
    _check_text_kind(config)
    _check_evaluators(config)
    _check_initial_weights(config.init)
    _check_mesh(config.mesh)
    _check_patch_dropout(config)
    _check_stages(config)
    check_durations(config)
    if data:
        _check_data(config.data)
        unused_settings.check(config)


def _fail(key: str, value: Any, problem: str) -> None:
    raise ConfigError(f"config.{key}={as_flag(value)}: {problem}")


def _check_group(group: Any, ranges: Any, *, where: str) -> None:
    """Raise ConfigError unless a group has exactly these settings, each within its range."""
    if not hasattr(group, "items"):
        raise ConfigError(f"{where}={shown(group)}: is a group of settings; set those in it")
    ranges = ranges(group) if callable(ranges) else ranges
    if "*" in ranges:
        ranges = dict.fromkeys(group, ranges["*"])
    for key in group:
        if key not in ranges:
            names = [f"{where}.{known}".removeprefix("config.") for known in ranges]
            name = f"{where}.{key}".removeprefix("config.")
            near = closest_setting(name, [*names, *flatten(defaults())])
            raise ConfigError(f"{where}.{key}: no such setting{near}")
    for key, values in ranges.items():
        if key not in group:
            raise ConfigError(
                f"{where}.{key} is missing; start from config.defaults(), .part(), .stage() or"
                " .evaluator(), which are complete"
            )
        if isinstance(values, Mapping) or callable(values):
            _check_group(group[key], values, where=f"{where}.{key}")
        else:
            values.check(group[key], where=f"{where}.{key}")


def _check_model(model: Config) -> None:
    model_config.parse(model.to_dict(), where="config.model")
    check_name(model.get("name"), names=[*zoo.MODELS, "custom"], kind="config.model.name")
    if model.name != "custom":
        _check_against_zoo(model)


def _check_against_zoo(model: Config) -> None:
    ours = flatten(model_config.complete(model.to_dict()))
    for name, theirs in flatten(zoo.get(model.name)).items():
        if name not in model_config.NOT_SHAPE and ours[name] != theirs:
            _fail(
                f"model.{name}",
                ours[name],
                f"contradicts model.name={model.name}, which has {theirs};"
                " add --config.model.name=custom to train another shape",
            )


def _check_loss(config: Config) -> None:
    settings = flatten(config)
    for key in losses.NAMES[config.loss.name].needs:
        if not settings[key]:
            _fail("loss.name", config.loss.name, f"add --config.{key}=True, which it needs")
    brought = config.init.weights and "text" in config.init.towers
    if config.tokenizer.kind in READY_MADE and not config.tokenizer.path and not brought:
        _fail("tokenizer.path", "", f"name the vocabulary of kind {config.tokenizer.kind}")


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
        if predicts != evals.KINDS[settings.kind].predicts:
            fit = [name for name, known in evals.KINDS.items() if predicts == known.predicts]
            _fail(
                f"evals.{name}.kind",
                settings.kind,
                f"cannot measure model.text.kind={kind}, which takes {', '.join(fit)}",
            )


def _check_evaluators(config: Config) -> None:
    for name, settings in config.evals.items():
        if settings.source:
            _check_place(settings, where=f"evals.{name}")
    if best := config.checkpoint.keep_best.metric:
        _check_best(best, evaluators=config.evals)


def _check_best(metric: str, *, evaluators: Config) -> None:
    kind, name, own = [*metric.split("/", 2), "", ""][:3]
    if kind != "eval" or name not in evaluators:
        _fail(
            "checkpoint.keep_best.metric",
            metric,
            'is no metric of an evaluator; write "eval/<name>/<metric>", <name> of config.evals:'
            f" {', '.join(evaluators) or 'there are none'}",
        )
    names = evals.KINDS[evaluators[name].kind].metrics
    check_name(own, names=names, kind=f"config.checkpoint.keep_best.metric={metric}")


def _check_initial_weights(init: Config) -> None:
    if init.weights and not init.towers:
        _fail("init.towers", init.towers, "nothing of config.init.weights would be taken; name one")


def _check_mesh(mesh: Config) -> None:
    if list(mesh.values()).count(-1) > 1:
        _fail("mesh", dict(mesh), "axes are positive, and at most one is -1 (all that remain)")


def _check_patch_dropout(config: Config) -> None:
    own = {"patch_dropout": config.patch_dropout}
    own |= {f"stages.{name}.patch_dropout": s.patch_dropout for name, s in config.stages.items()}
    for key, value in own.items():
        if value > 0 and config.model.vision.kind != "vit":
            _fail(key, value, f"a {config.model.vision.kind} has no patches; set it to 0")


def _check_stages(config: Config) -> None:
    for name in config.stages:
        try:
            _check_model(stages.settings(config, name).model)
        except ConfigError as error:
            raise ConfigError(f"config.stages.{name}: {error}") from error
    texts = [config.total, *(stage.until for stage in config.stages.values())]
    if config.stages and not any("epoch" in text for text in texts):
        stages.plan(config, epoch_examples=None)


def check_durations(config: Config, *, epoch_examples: int | None = None) -> None:
    """Raise ConfigError on durations that do not fit into the run.

    Args:
      config: whose settings are each within their range.
      epoch_examples: examples in an epoch; where it is None, durations in epochs are not compared.
    """
    schedule = config.schedule
    texts = {
        "schedule.warmup": schedule.warmup,
        "schedule.cooldown": schedule.cooldown or "0 steps",
    }
    if schedule.cooldown and "cooldown" not in optim.SCHEDULES[schedule.name].reads:
        ends = f"{schedule.name} ends at zero without one"
        _fail("schedule.cooldown", schedule.cooldown, ends)
    window = durations.step_window(config.profile, where="config.profile")

    def steps(key: str, text: str) -> int:
        if "epoch" in text and epoch_examples is None:
            return 0
        return durations.steps(
            text, where=f"config.{key}", batch_size=config.batch_size, epoch_examples=epoch_examples
        )

    total = steps("total", config.total) or MOST_STEPS
    if total > MOST_STEPS:
        _fail("total", config.total, f"is {total:,} steps, and at most {MOST_STEPS:,} are counted")
    counts = {key: steps(key, text) for key, text in texts.items()}
    run = f"the whole run of {total:,}, config.total={config.total}"
    for key, count in counts.items():
        if count > total:
            _fail(key, texts[key], f"is {count:,} steps, longer than {run}")
    if sum(counts.values()) > total:
        both = " and ".join(f"{count:,}" for count in counts.values())
        _fail(
            "schedule.cooldown",
            schedule.cooldown,
            f"warm-up and cool-down, {both} steps, are together longer than {run}",
        )
    if not config.stages and window.start >= total:
        _fail("profile", config.profile, f"begins after the last step of {run}")


def _check_data(data: Config) -> None:
    for name, part in data.mixture.items():
        _check_records(part, where=f"data.mixture.{name}")
        _check_place(part, where=f"data.mixture.{name}")
    if data.mixture and data.name:
        _fail("data.name", data.name, "has no effect beside config.data.mixture")
    _check_records(data, where="data")
    is_placed = data.mixture or data.name or data.path
    if not is_placed and sources.SOURCES[data.source].needs_path:
        raise ConfigError(NO_DATA)


def _check_place(data: Config, *, where: str) -> None:
    """Raise ConfigError where nothing says where the data of a source lie."""
    named = [key for key in ("path", "name") if key in sources.SOURCES[data.source].reads]
    if named and not any(data[key] for key in named):
        _fail(f"{where}.source", data.source, f"set its {' or '.join(named)} too")


def _check_records(data: Config, *, where: str) -> None:
    of_shards = sources.those(lambda entry: entry.ending)
    if data.order == "window" and not sources.SOURCES[data.source].ending:
        _fail(
            f"{where}.order",
            data.order,
            f"needs a source of shards ({of_shards}), not {data.source}",
        )
    weights, fields = data.text_weights, data.text_key.split(",")
    if weights and (len(weights) != len(fields) or not sum(weights)):
        _fail(
            f"{where}.text_weights",
            tuple(weights),
            f"needs one chance for each of the {len(fields)} fields of {where}.text_key",
        )
