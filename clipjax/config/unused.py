"""Settings that nothing reads beside the others: they are refused, or told at the start.

`config_check` calls `check`, and the summary of a run shows what `ignored` gives. That is refused
which says where data are or how an evaluation is made. The rest gets a line: a run that began with
it must be able to go on.
"""

from collections.abc import Iterable, Iterator

from clipjax import config as settings
from clipjax import losses, optim
from clipjax.common import registry
from clipjax.common.exits import ConfigError
from clipjax.common.ranges import as_flag
from clipjax.config import Config, evaluation_data, flatten, stages
from clipjax.data import sources

NAMED = {"loss": losses.NAMES, "optimizer": optim.OPTIMIZERS, "schedule": optim.SCHEDULES}
BLOCKLESS = ("resnet", "bag_of_words", "word_prediction")  # kinds of towers without blocks


def check(config: Config) -> None:
    """Raise ConfigError on settings of data and evaluations that would not be read."""
    for key, value, why in _idle(config):
        if key.startswith(("data.", "evals.")) and settings.is_operational(key):
            source = f"config.{key.rpartition('.')[0]}.source"
            other = f", or set {source} to one that does" if "source" in why else ""
            raise ConfigError(f"config.{key}={value}: has no effect, {why}; leave it out{other}")


def ignored(config: Config) -> list[str]:
    """A line for each setting that is not its default and has no effect, with the reason."""
    return [f"config.{key}={value} has no effect: {why}" for key, value, why in _idle(config)]


def _idle(config: Config) -> Iterator[tuple[str, str, str]]:
    """(key, value, why) of each setting that is not its default and that nothing reads."""
    usual, ours = flatten(settings.defaults()), flatten(config)
    for name in config.data.mixture:
        usual |= flatten(settings.part(1.0), f"data.mixture.{name}.")
    for name, own in config.evals.items():
        usual |= flatten(settings.evaluator(own.kind), f"evals.{name}.")
    for name in config.stages:
        usual |= flatten(settings.stage(""), f"stages.{name}.")
    for key, why in _unread(config):
        if key in ours and ours[key] != usual[key]:
            yield key, as_flag(ours[key]), why


def _unread(config: Config) -> Iterator[tuple[str, str]]:
    """(key, why) of each setting that nothing reads beside the others, be it set or not."""
    loss, text, vision = config.loss.name, config.model.text.kind, config.model.vision.kind
    if not config.init.weights:
        yield from _each("init", ("towers", "resize_positions"), "init.weights names none")
    if "model.logit_bias" not in losses.NAMES[loss].needs:
        yield "model.logit_bias", f"loss.name={loss} is the same with any bias"
    for group, table in NAMED.items():
        name = config[group].name
        yield from _each(
            group, registry.unread(name, table=table), f"{group}.name={name} reads none"
        )
    if vision in BLOCKLESS and text in BLOCKLESS:
        yield "optimizer.layer_decay", f"kinds {vision} and {text} have no blocks"
    if config.tokenizer.path or config.tokenizer.kind != "sentencepiece":
        yield "tokenizer.max_captions", "no vocabulary is trained"
    if not config.checkpoint.keep_best.metric:
        yield "checkpoint.keep_best.mode", "checkpoint.keep_best.metric names none"
    if config.data.mixture:
        yield from _each("data", settings.records(), "data.mixture names the sources")
        for name, part in config.data.mixture.items():
            yield from _unread_records(part, where=f"data.mixture.{name}")
    else:
        yield from _unread_records(config.data, where="data")
    for name, own in config.evals.items():
        source = evaluation_data.settings(config, name).source
        yield from _unread_by(source, own, where=f"evals.{name}")
    for name in config.stages:
        if stages.settings(config, name) == stages.settings(config, ""):
            yield f"stages.{name}.until", "the stage sets nothing else"


def _unread_records(data: Config, *, where: str) -> Iterator[tuple[str, str]]:
    yield from _unread_by(data.source, data, where=where)
    if data.order != "window":
        yield f"{where}.window", f"{where}.order={data.order} has none"
    if "," not in data.text_key:
        yield f"{where}.text_weights", f"{where}.text_key does not name several fields"


def _unread_by(source: str, data: Config, *, where: str) -> Iterator[tuple[str, str]]:
    """The settings of `config.records` that a source does not read."""
    reads = ("source", "keep", *sources.SOURCES[source].reads)
    unread = [key for key in settings.records() if key in data and key not in reads]
    yield from _each(where, unread, f"source {source} reads none")


def _each(where: str, keys: Iterable[str], why: str) -> Iterator[tuple[str, str]]:
    for key in keys:
        yield f"{where}.{key}", why
