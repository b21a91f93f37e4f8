"""Which format lies at a path, and which can be written; asked by `pretrained` and `convert`."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from clipjax.common.exits import ConfigError, DataError
from clipjax.data.tokenizers import Tokenizer
from clipjax.weights import (
    arrays,
    big_vision,
    files,
    huggingface,
    huggingface_folder,
    huggingface_siglip,
    model_configs,
    open_clip,
    open_clip_siglip,
    openai,
    siglip,
    tokenizer_files,
    weight_files,
    wrappers,
)
from clipjax.weights.foreign import BATCH_STATS, Foreign, checked

# Format → how a CLIP is written, how a SigLIP is.
WRITERS = {
    "open_clip": (open_clip.write, open_clip_siglip.write),
    "huggingface": (huggingface.write, huggingface_siglip.write),
}


ADAPTER = "adapter_config.json"  # of PEFT: LoRA and its kin
MERGE = (
    "an adapter, which is no model alone; put it into its base with peft and transformers:"
    " PeftModel.from_pretrained(BASE, ADAPTER).merge_and_unload().save_pretrained(FOLDER)"
)


def open_foreign(
    path: str | os.PathLike[str],
    *,
    model_config: str = "",
    average: bool = True,
    weights: Sequence[pathlib.Path] = (),
) -> Foreign | None:
    """Another program's model, or None where there is none: then it may be a clipjax checkpoint.

    Args:
      path: a folder, or a file of weights, beside which its settings may lie.
      model_config: what the model is, see `model_configs.read`; "" is told by the files.
      average: whether to take a moving average that lies beside the weights.
      weights: safetensors in place of the path's own weights, where those were pickles.

    Raises:
      ConfigError: nothing says which model it is.
      DataError: its files are damaged, or ask for what clipjax does not have.
    """
    source = pathlib.Path(path)
    try:
        if source.suffix == ".npz" and source.is_file():
            return _big_vision(source, model_config=model_config)
        if (source / ADAPTER).is_file() and not weights:
            raise DataError(MERGE)
        if not weights and not _is_foreign(source, model_config=model_config):
            return None
        if not model_config:
            _check_type(source)
        weight_list, notes = (weights, ()) if weights else weight_files.find(source)
        tensors, choice = wrappers.unwrap(files.SafeTensors(*weight_list), average=average)
        folder = source if source.is_dir() else source.parent
        origin, (model, left_open) = _described(folder, tensors, model_config=model_config)
        # A bias of the logits is what open_clip's --siglip gives to any model.
        model = checked({**model, "logit_bias": openai.BIAS in tensors.shapes})
        layout, ignored = _layout(model, tensors)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    tokenizer = {
        "folder": folder,
        "kind": "siglip" if siglip.is_siglip(model) else "clip",
        "context_length": model["text"]["context_length"],
    }
    return Foreign(
        origin=f"{source.name}, {origin}",
        model=model,
        tensors=tensors,
        layout=layout,
        ignored=ignored,
        find_tokenizer=lambda named: tokenizer_files.find(named, **tokenizer),
        notes=(*notes, *choice, *left_open),
    )


def _big_vision(file: pathlib.Path, *, model_config: str) -> Foreign:
    if model_config:
        raise ConfigError("takes no model_config: big_vision's arrays say what a SigLIP is")
    return big_vision.open(file)


def _is_foreign(source: pathlib.Path, *, model_config: str) -> bool:
    """Whether another program's weights lie there, and not a clipjax run's."""
    if source.is_file():
        return source.suffix == weight_files.ENDING or bool(
            weight_files.INDEX.fullmatch(source.name)
        )
    if (source / "checkpoints").is_dir() or (source / "state").is_dir():
        return False
    configs = (open_clip.CONFIG, huggingface_folder.CONFIG)
    return (
        bool(model_config)
        or any((source / config).is_file() for config in configs)
        or any(source.glob(f"*{weight_files.ENDING}"))
        or weight_files.holds_pickles(source)
        or bool(weight_files.in_parts(source))
    )


def models_below(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folders at most two levels below one that hold another program's model, as those in
    Hugging Face's cache and in pipelines of several models do."""
    inside = [path for depth in ("*", "*/*") for path in sorted(folder.glob(depth))]
    return [path for path in inside if path.is_dir() and _is_foreign(path, model_config="")]


def _check_type(source: pathlib.Path) -> None:
    """Raise DataError if a folder holds a model of transformers' that clipjax does not have."""
    config = source / huggingface_folder.CONFIG
    if config.is_file() and not (source / open_clip.CONFIG).is_file():
        model_configs.reader_of(config)


def _described(
    folder: pathlib.Path, tensors: arrays.Tensors, *, model_config: str
) -> tuple[str, model_configs.Described]:
    """Where the model's description is from, for people, and the description."""
    if model_config:
        return f"as {model_config} describes it", model_configs.read(model_config)
    own = folder / (huggingface_folder if _has_transformers_names(tensors) else open_clip).CONFIG
    if own.is_file() and own.name == open_clip.CONFIG:
        return "open_clip's", model_configs.of_open_clip(files.read_json(own))
    if own.is_file():
        return "transformers'", model_configs.of_transformers(own)
    if openai.is_release(tensors.shapes):
        model = openai.model_of(tensors.shapes)
        return "OpenAI's", (model, (f"as OpenAI's release: {model_configs.summary(model)}",))
    raise ConfigError(
        f"weights alone, which say neither activation nor heads nor how images are prepared; put"
        f" their {own.name} beside them, or add --model_config=FILE (that one, or a run's"
        f" config.json) or --model_config=NAME (ViT-B/32 is OpenAI's with QuickGELU,"
        f" open_clip:ViT-B-32 open_clip's with GELU)"
    )


def _has_transformers_names(tensors: arrays.Tensors) -> bool:
    return any(name.startswith(("vision_model.", "text_model.")) for name in tensors.shapes)


def _layout(
    model: Mapping[str, Any], tensors: arrays.Tensors
) -> tuple[arrays.Layout, tuple[str, ...]]:
    """Where our parameters lie among arrays of these names, and which names hold no weights."""
    if _has_transformers_names(tensors):
        theirs = huggingface_siglip if siglip.is_siglip(model) else huggingface
        return theirs.layout(), huggingface.IGNORED
    if siglip.is_siglip(model):
        return open_clip_siglip.layout(model), ()
    own_text = any(name.startswith("text.") for name in tensors.shapes)
    return openai.layout(model, text="text." if own_text else ""), openai.IGNORED


def write(
    folder: str | os.PathLike[str],
    *,
    to: str,
    model: dict[str, Any],
    variables: dict[str, Any],
    tokenizer: Tokenizer,
) -> None:
    """Write a folder for another program, whole or not at all.

    Args:
      folder: new, or empty.
      to: one of `WRITERS`.
      model: nested dict as of `zoo.MODELS`.
      variables: `params` and perhaps `batch_stats`, numpy, float32 or half, which stays so, in the
        layout of scan=True or of scan=False.
      tokenizer: the model's.

    Raises:
      ConfigError: there is something in the folder.
      DataError: that program has no such model.
    """
    if to not in WRITERS:
        raise ConfigError(f'--format: "{to}" cannot be written')
    kind = model["text"].get("kind", "transformer")
    if kind != "transformer":
        raise DataError(f"no other program has a text tower like this one, model.text.kind={kind}")
    writer = WRITERS[to][siglip.is_siglip(model)]
    stats = {BATCH_STATS: variables[BATCH_STATS]} if variables.get(BATCH_STATS) else {}
    params = {**variables["params"], **stats}
    contents = {"model": model, "params": params, "tokenizer": tokenizer}
    files.write_folder(folder, lambda made: writer(made, **contents))
