"""From a config to the tokenizer of a run: the work directory's, a file's, the initial weights' or
one trained on the captions."""

import functools
from typing import Any

from etils import epath

from clipjax.build import model as build_model
from clipjax.common.exits import ConfigError
from clipjax.config import Config
from clipjax.data import captions, tokenizers
from clipjax.data.tokenizers import Tokenizer
from clipjax.data.tokenizers import clip as clip_tokenizer
from clipjax.data.tokenizers import sentencepiece as sentencepiece_tokenizer
from clipjax.parallel import distributed


def tokenizer(config: Config, *, source: Any, workdir: str) -> Tokenizer:
    """The run's tokenizer, the same on every process: from the work directory, a file, the weights
    that the run starts from, or trained on the captions.

    Process 0 finds or trains it and publishes it in the work directory; the others receive its
    bytes, so all are equal by construction.

    Raises:
      ConfigError: its size is not `model.text.vocab_size`, the work directory's differs from the
        one in `tokenizer.path`, or the weights of `config.init` bring another kind.
    """
    text = config.model.text
    published = epath.Path(workdir) / "tokenizer"
    begun = distributed.from_lead(b"begun" if published.exists() else b"")
    trained = None
    if not begun and not config.tokenizer.path:
        trained = build_model.vocabulary_of_weights(config)  # which all processes read together
    problem, model = b"", b""
    if distributed.is_lead():
        try:
            agreed = _lead_tokenizer(config, source=source, trained=trained, published=published)
            model = agreed.model
        except ConfigError as error:
            problem = str(error).encode()
    problem = distributed.from_lead(problem)  # every process leaves with the same error
    if problem:
        raise ConfigError(problem.decode())
    make = tokenizers.KINDS[config.tokenizer.kind]
    agreed = make(distributed.from_lead(model), context_length=text.context_length)
    if agreed.vocab_size != text.vocab_size:
        weights = f" and comes with config.init.weights={config.init.weights}, whose model"
        whose = f"{weights} config.model must describe" if trained is not None else ""
        raise ConfigError(
            f"config.model.text.vocab_size={text.vocab_size}: the tokenizer has"
            f" {agreed.vocab_size}{whose}; set the one or name another tokenizer.path"
        )
    return agreed


def _lead_tokenizer(
    config: Config, *, source: Any, trained: Tokenizer | None, published: epath.Path
) -> Tokenizer:
    """What process 0 finds in the work directory, or makes and publishes there."""
    load = functools.partial(
        tokenizers.load,
        kind=config.tokenizer.kind,
        context_length=config.model.text.context_length,
    )
    named = load(config.tokenizer.path) if config.tokenizer.path else None
    if published.exists():
        begun = load(published)
        if named is not None and named.hash != begun.hash:
            raise ConfigError(
                f"config.tokenizer.path={config.tokenizer.path}: differs from the tokenizer this"
                f" run began with, {published}; leave it out or start in another --workdir"
            )
        return begun
    chosen = named or _unnamed(config, source=source, trained=trained)
    tokenizers.publish(chosen.files(), folder=published)
    return chosen


def _unnamed(config: Config, *, source: Any, trained: Tokenizer | None) -> Tokenizer:
    """The tokenizer that the initial weights brought, else the one that the kind has or trains."""
    kind, text = config.tokenizer.kind, config.model.text
    if trained is not None:
        model = trained.model
    elif kind == "clip":
        model = clip_tokenizer.packaged_merges()
    else:
        sample = captions.sample(source, limit=config.tokenizer.max_captions)
        with sample.blamed():
            model = sentencepiece_tokenizer.train_sentencepiece(sample, vocab_size=text.vocab_size)
    return tokenizers.KINDS[kind](model, context_length=text.context_length)
