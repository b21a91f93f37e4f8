"""From a config to the data of a run: sources, examples, evaluators; see also `build`."""

import re
from typing import Any

from jax.sharding import Mesh

from clipjax import evals
from clipjax.build import model as build_model
from clipjax.build import program as build
from clipjax.common.exits import ConfigError, DataError
from clipjax.config import Config, evaluation_data, records
from clipjax.data import (
    eval_batches,
    mixture,
    order,
    same_image,
    sources,
)
from clipjax.data.examples import TrainExamples
from clipjax.data.source import Shards, Source, Spread
from clipjax.data.sources import sharded, shared_records
from clipjax.data.sources.selection import Selected
from clipjax.data.sources.shard_files import ShardFiles
from clipjax.evals import embed, prompts
from clipjax.evals.evaluated import EvaluatedModel
from clipjax.evals.evaluator import Evaluator, open_evaluator
from clipjax.evals.protocols import registry as protocols
from clipjax.evals.protocols.loss import TrainingLoss
from clipjax.parallel import mesh as meshes

OF_RECORDS = re.compile(rf"config\.data\.(?=({'|'.join(records())})\b)")
EVAL_BATCH = 1024
DEFAULT_GIGABYTES = 100.0  # of an evaluator's own remote shards


def source(data: Config, *, image_size: int, seed: int, where: str = "data") -> Source:
    """The source that `config.data`, one part of its mixture or an evaluator's settings name.

    Args:
      data: settings of `config.records`, or of an evaluator; a `mixture` among them comes first.
      image_size: of sources that draw their images, in pixels.
      seed: of sources that make their records.
      where: the config key of `data`, for errors.

    Raises:
      ConfigError: no data are named.
      DataError: they cannot be read, or hold no records.
    """
    if data.get("mixture"):
        parts = {
            name: source(
                _with_cache(part, data),
                image_size=image_size,
                seed=seed,
                where=f"{where}.mixture.{name}",
            )
            for name, part in data.mixture.items()
        }
        return mixture.Joined(parts)
    try:
        opened = _open(data, image_size=image_size, seed=seed, where=where)
        if data.get("keep"):
            opened = Selected(opened, path=shard_files(data).local(data.keep))
    except (ConfigError, DataError) as error:  # sources speak of the training data's settings
        raise type(error)(OF_RECORDS.sub(f"config.{where}.", str(error))) from None
    if len(opened) == 0:
        raise DataError(f"config.{where}: {opened.name} split {data.split} holds no records")
    return opened


def _open(data: Config, *, image_size: int, seed: int, where: str) -> Source:
    """The source with all its records."""
    entry = sources.entry(data.source)
    index = data.get("index") if entry.ending else ""
    opened = entry.open(
        **{key: data.get(key) for key in sources.SETTINGS},
        image_size=image_size,
        seed=seed,
        files=shard_files(data),
        survey=sharded.read_survey(index) if index else None,
    )
    if not opened.has_split(data.split):
        raise ConfigError(
            f"config.{where}.split={data.split}: {data.path} holds no folder {data.split}"
        )
    return opened


def source_at(path: str, *, data: Config) -> Any:
    """`source` with another `data.path`; can be called in another process."""
    data = data.copy_and_resolve_references()
    with data.unlocked():
        data.path = path
    return source(data, image_size=0, seed=0)


def shard_files(data: Config) -> ShardFiles:
    """Where shards and their indexes are kept on this host."""
    return ShardFiles(
        cache_dir=data.get("cache_dir") or "",
        cache_bytes=round(data.get("cache_gigabytes", DEFAULT_GIGABYTES) * 1e9),
        index=data.get("index") or "",
    )


def _with_cache(part: Config, data: Config) -> Config:
    """A part's or an evaluator's settings, with the training data's cache."""
    part = part.copy_and_resolve_references()
    with part.unlocked():
        part.update({key: data[key] for key in ("cache_dir", "cache_gigabytes")})
    return part


def examples(config: Config, *, source: Any, tokenizer: Any) -> TrainExamples:
    """The training stream of `config.data` from its `source`."""
    data = config.data
    weights = {name: tuple(part.text_weights) for name, part in data.mixture.items()}
    return TrainExamples(
        source,
        tokenizer=tokenizer,
        image_size=config.model.vision.image_size,
        image_resize=config.model.image_resize,
        seed=config.seed,
        order=_order(data, source=source, seed=config.seed, where="data"),
        text_weights=weights or tuple(data.text_weights),
        content_ids=config.loss.duplicates != "negative",
    )


def _order(data: Config, *, source: Any, seed: int, where: str) -> order.Order:
    if data.get("mixture"):
        parts = {}
        for name, part in data.mixture.items():
            own = source.parts[name]
            own_order = _order(
                _with_cache(part, data), source=own, seed=seed, where=f"{where}.mixture.{name}"
            )
            parts[name] = (own_order, part.weight, len(own))
        return mixture.MixtureOrder(parts)
    shards = source.shards
    if shards is not None and shards.is_remote:
        _check_cache(data, shards, where=where)
    if shards is not None and data.order == "window":
        return order.WindowOrder(shards.lengths, window=data.window, seed=seed)
    return order.GlobalOrder(len(source), seed=seed)


def _check_cache(data: Config, shards: Shards, *, where: str) -> None:
    """Raise ConfigError where training would fetch remote shards over and over."""
    room = shard_files(data).cache_bytes
    if data.order == "global":
        needed, remedy = sum(shards.sizes), f"--config.{where}.order=window, or"
    else:
        needed = 2 * data.window * max(shards.sizes)
        remedy = f"a smaller --config.{where}.window, or"
    if needed > room:
        raise ConfigError(
            f"config.data.cache_gigabytes={room / 1e9:g}: order {data.order!r} reads"
            f" {needed / 1e9:.3g} GB of remote shards again and again; set {remedy} more room"
        )


def evaluator(
    config: Config, /, name: str, *, mesh: Mesh, tokenizer: Any, training: Any = None
) -> Evaluator:
    """The evaluator `name` of the config, its data opened now so that a mistake shows at once.

    With the `training` data's source it has a note where it measures on its records.

    Raises:
      ConfigError: the settings do not say what to measure.
      DataError: the data cannot be used, or the first image cannot be read.
    """
    settings, data = config.evals[name], evaluation_source(config, name)
    size, resize = config.model.vision.image_size, config.model.image_resize
    eval_batches.load_eval_image(0, source=data, size=size, resize=resize)
    make_embedder = protocols.get(settings.kind).embedder or embed.Embedder
    model = EvaluatedModel(
        embedder=make_embedder(
            build_model.model(config, mesh=mesh),
            mesh=mesh,
            batch_size=settings.batch_size or _eval_batch(config.batch_size, mesh=mesh),
        ),
        tokenizer=tokenizer,
        image_size=size,
        mesh=mesh,
        training_loss=TrainingLoss(
            build.objective(config),
            name=config.loss.name,
            duplicates=config.loss.duplicates,
            pairs=config.batch_size,
        ),
    )
    naming = {key: settings[key] for key in evals.KINDS[settings.kind].settings}
    opened = open_evaluator(settings.kind, data, model=model, name=name, **naming)
    opened.of_data = data.notes
    if training is not None and (shared := shared_records.count(data, training)):
        note_training_data(opened, shared)
    return opened


def check_class_names(config: Config) -> None:
    """Raise ConfigError for class names or templates of an evaluator that cannot be read, before
    any data are; whether they fit the labels shows when its data are open."""
    for name, settings in config.evals.items():
        if "classes" in evals.KINDS[settings.kind].settings:
            prompts.check_settings(
                settings.classes, templates=settings.templates, where=f"config.evals.{name}"
            )


def evaluation_source(config: Config, name: str) -> Any:
    """The data of the evaluator `name`; errors as `evaluation_data.settings` and `source`."""
    data = _with_cache(evaluation_data.settings(config, name), config.data)
    size = config.model.vision.image_size
    whole = source(data, image_size=size, seed=config.seed, where=f"evals.{name}")
    if evals.KINDS[config.evals[name].kind].captions and sources.entry(data.source).needs_path:
        return same_image.some_images(whole, limit=data.max_examples)
    return Spread(whole, data.max_examples) if data.max_examples else whole


def note_training_data(evaluator: Any, shared: int) -> None:
    """Let an evaluator say beside its figures that so many of its records are training data."""
    evaluator.seen = shared
    evaluator.of_data = [
        shared_records.note(shared, of=len(evaluator.source)),
        *evaluator.of_data,
    ]


def _eval_batch(batch_size: int, *, mesh: Mesh) -> int:
    """The training batch, or near EVAL_BATCH if that is smaller."""
    shards = meshes.batch_shards(mesh)
    return min(batch_size, max(EVAL_BATCH - EVAL_BATCH % shards, shards))
