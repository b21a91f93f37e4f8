"""Captions → token ids: the kinds of tokenizer there are, their files, and what a model relies on.

A tokenizer has `encode`, `decode`, `files`, `hash`, `vocab_size`, `context_length`, `end_id`; see
`SentencePieceTokenizer`. Its kind is known by its file's name. `clipjax.build.data` makes a run's,
checkpoints carry its files, the loader and the evaluators use it.
"""

import os
from collections.abc import Mapping
from typing import Any

from clipjax.common import files, git_lfs
from clipjax.common.exits import ConfigError
from clipjax.data.tokenizers.clip import ClipTokenizer
from clipjax.data.tokenizers.sentencepiece import SentencePieceTokenizer
from clipjax.data.tokenizers.siglip import GemmaTokenizer, SiglipTokenizer

Tokenizer = SentencePieceTokenizer | ClipTokenizer | SiglipTokenizer | GemmaTokenizer
KINDS: dict[str, type[Tokenizer]] = {
    "sentencepiece": SentencePieceTokenizer,
    "clip": ClipTokenizer,
    "siglip": SiglipTokenizer,
    "gemma": GemmaTokenizer,
}


def from_files(files: Mapping[str, bytes], *, context_length: int) -> Tokenizer:
    """The tokenizer that `files()` of another one describes; ConfigError if there is none."""
    for kind in KINDS.values():
        if kind.FILE in files:
            return kind(files[kind.FILE], context_length=context_length)
    known = ", ".join(kind.FILE for kind in KINDS.values())
    raise ConfigError(f"tokenizer: none of {known} among {sorted(files) or 'no files'}")


def kind_of(tokenizer: Tokenizer) -> str:
    """The name in `KINDS` of a tokenizer's kind."""
    return next(name for name, made in KINDS.items() if type(tokenizer) is made)


def load(path: str | os.PathLike[str], *, kind: str, context_length: int) -> Tokenizer:
    """The tokenizer in a file of its kind, or in a folder that `publish` wrote.

    Args:
      path: local or remote; "sentencepiece" reads a SentencePiece model, "clip" CLIP's merges.
      kind: one of `KINDS`.
      context_length: T, ids per caption.

    Raises:
      ConfigError: there is no such file, or it is of no such kind; names the path.
    """
    from etils import epath

    tokenizer_class = KINDS[kind]
    try:
        file = epath.Path(path).expanduser()
        model = (file / tokenizer_class.FILE if file.is_dir() else file).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"config.tokenizer.path: cannot read {path} ({error.strerror or error})"
        ) from None
    except KeyError:  # of a protocol that epath does not know
        raise ConfigError(f"config.tokenizer.path: {path} is neither local nor gs://") from None
    try:
        return from_bytes(model, kind=kind, context_length=context_length)
    except ConfigError as error:
        raise ConfigError(f"config.tokenizer.path: {error} ({path})") from None


def from_bytes(model: bytes, *, kind: str, context_length: int) -> Tokenizer:
    """The tokenizer of a kind that a file's content is; ConfigError if it is none."""
    if git_lfs.is_pointer(model):
        raise ConfigError(f"{KINDS[kind].FILE} is {git_lfs.FETCH}")
    return KINDS[kind](model, context_length=context_length)


def publish(contents: Mapping[str, bytes], *, folder: str | os.PathLike[str]) -> None:
    """Write a tokenizer's files so that a reader sees each one whole or not at all.

    One process calls it; the others wait for it and then `load` the folder.

    Raises:
      ConfigError, WriteError: they cannot be written.
    """
    for name, content in contents.items():
        files.write(f"{os.fspath(folder)}/{name}", content)


def rules(tokenizer: Tokenizer) -> dict[str, Any]:
    """What the weights rely on besides the vocabulary; stored with them and compared on load."""
    return {
        "start": tokenizer.start_id,
        "end": tokenizer.end_id,
        "padding": tokenizer.pad_id,
        "context_length": tokenizer.context_length,
        "truncation": tokenizer.TRUNCATION,
        "cleaning": tokenizer.CLEANING,
    }


# Short words of every script that vocabularies are trained on, figures and signs.
PROBES = (
    *("a", "the", "photo", "dog", "red", "left", "above", "fox", "zebra", "quick", "jumps", "and"),
    *("0", "17", "2026", "!", "&", "naïve", "Ωmega", "мир", "犬", "🦊"),
)


def first_difference(one: Tokenizer, other: Tokenizer) -> str:
    """The first of some words that two tokenizers give other ids; "" where they agree on all.

    Files may differ where tokenizers do not (compressed, or in another format), and a vocabulary of
    the same size may be another one altogether: only what they do tells.
    """
    (mine, cut), (theirs, also_cut) = one.encode(PROBES), other.encode(PROBES)
    room = min(one.context_length, other.context_length)
    differs = (mine[:, :room] != theirs[:, :room]).any(axis=1) & ~cut & ~also_cut
    return next((word for word, differ in zip(PROBES, differs, strict=True) if differ), "")


def check_rules(tokenizer: Tokenizer, *, stored: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError if this program does anything otherwise than the one that trained."""
    for name, mine in rules(tokenizer).items():
        if name in stored and stored[name] != mine:
            raise ConfigError(
                f"{where}: trained with tokenizer {name} {stored[name]!r}, this clipjax has"
                f" {mine!r}; use the clipjax that trained it"
            )
