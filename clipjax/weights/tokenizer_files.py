"""Tokenizers in other programs' folders: which one is there, and ours written for them."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import tokenizers as tokenizers_library

from clipjax.common.exits import ConfigError, DataError
from clipjax.data import tokenizers
from clipjax.data.tokenizers import Tokenizer
from clipjax.data.tokenizers.clip import ClipTokenizer, packaged_merges
from clipjax.data.tokenizers.sentencepiece import SentencePieceTokenizer
from clipjax.data.tokenizers.siglip import GemmaTokenizer, SiglipTokenizer
from clipjax.weights import files, tokenizer_json
from clipjax.weights.settings import Settings

WHOLE = "tokenizer.json"
LONGEST = 40  # characters of a word in a message
# Texts in which letters, digits, signs and spaces are cleaned and split by every rule of CLIP's.
PROBES = ("A Photo of the Dog", "it's 17, isn't IT?!", "naïve  Ωmega\tмир 犬 🦊", "x_y-z...")
START, END = "<|startoftext|>", "<|endoftext|>"


def find(named: str, *, folder: pathlib.Path, kind: str, context_length: int) -> Tokenizer:
    """The file that the user named, what clipjax left in the folder, or the format's own.

    Args:
      named: "" for none.
      folder: where the weights lie.
      kind: "clip" or "siglip", whichever models of this format have.
      context_length: T.

    Raises:
      ConfigError: there is none; says what to name.
      DataError: it is there and damaged, or gives other ids than the folder's vocabulary.
    """
    if named:
        return _named(named, kinds=OF_FORMAT[kind], context_length=context_length)
    _check_case(folder / "tokenizer_config.json")
    for name, tokenizer_kind in tokenizers.KINDS.items():
        if (folder / tokenizer_kind.FILE).is_file():
            content = (folder / tokenizer_kind.FILE).read_bytes()
            try:
                return tokenizers.from_bytes(content, kind=name, context_length=context_length)
            except ConfigError as error:
                raise DataError(str(error)) from None
    return FINDERS[kind](folder, context_length=context_length)


def _check_case(file: pathlib.Path) -> None:
    """Raise DataError if a `tokenizer_config.json` keeps capital letters."""
    if file.is_file():
        settings = Settings(files.read_json(file), file=file.name).without_nulls()
        settings.one_of("do_lower_case", (True,), True)


def _named(path: str, *, kinds: tuple[str, ...], context_length: int) -> Tokenizer:
    """The tokenizer in a file, of the first kind that it fits."""
    errors = []
    for kind in kinds:
        try:
            return tokenizers.load(path, kind=kind, context_length=context_length)
        except ConfigError as error:
            errors.append(str(error).replace("config.tokenizer.path", "--tokenizer"))
    raise ConfigError("; ".join(dict.fromkeys(errors)))


def _clip(folder: pathlib.Path, *, context_length: int) -> ClipTokenizer:
    content = vocabulary = None
    if (folder / WHOLE).is_file():
        content = files.read_json(folder / WHOLE)
        try:
            vocabulary = dict(content["model"]["vocab"])
            pairs = [m if isinstance(m, str) else " ".join(m) for m in content["model"]["merges"]]
        except (KeyError, TypeError, ValueError):
            raise DataError(f"{WHOLE}: no byte pairs as CLIP's") from None
        merges = "\n".join(["#version: 0.2", *pairs]).encode()
    elif (folder / "merges.txt").is_file():
        merges = (folder / "merges.txt").read_bytes()
    else:
        merges = packaged_merges()
    if vocabulary is None and (folder / "vocab.json").is_file():
        vocabulary = files.read_json(folder / "vocab.json")
    tokenizer = ClipTokenizer(merges, context_length=context_length)
    for word, number in (vocabulary or {}).items():
        mine = _with_specials(tokenizer).get(word)
        if mine != number:
            word, number = f"{word!r:.{LONGEST}}", f"{number!r:.{LONGEST}}"
            raise DataError(f"its vocabulary gives {word} the id {number}, CLIP's order {mine}")
    if content is not None:
        _check_rules(content, tokenizer=tokenizer)
    return tokenizer


def _check_rules(content: Mapping[str, Any], *, tokenizer: ClipTokenizer) -> None:
    """Raise DataError if a `tokenizer.json` cleans or splits texts otherwise than CLIP."""
    try:
        theirs = tokenizers_library.Tokenizer.from_str(json.dumps(content))
        texts = {text: theirs.encode(text, add_special_tokens=False).ids for text in PROBES}
    except Exception as error:  # of what the library cannot make a tokenizer of
        problem = " ".join(str(error).split())[:200]
        raise DataError(f"{WHOLE}: {problem}") from None
    for text, ids in texts.items():
        if ids != tokenizer.ids(text):
            raise DataError(
                f"{WHOLE}: gives {text!r} other ids than CLIP's rules (lower case, words split as"
                " released); clipjax has no such tokenizer"
            )


def _sentencepiece(folder: pathlib.Path, *, context_length: int) -> Tokenizer:
    raise ConfigError(
        f"{folder}: holds no SentencePiece model (SigLIP's spiece.model, SigLIP 2's"
        " tokenizer.model); name it with --tokenizer"
    )


OF_FORMAT = {"clip": ("clip",), "siglip": ("siglip", "gemma")}  # kinds of tokenizer
FINDERS = {"clip": _clip, "siglip": _sentencepiece}


def for_transformers(tokenizer: Tokenizer) -> dict[str, bytes]:
    """File name → bytes that transformers' AutoTokenizer, and open_clip through it, load."""
    settings = {
        **SPECIAL[type(tokenizer)],
        "model_max_length": tokenizer.context_length,
        "clean_up_tokenization_spaces": False,
    }
    contents = {"tokenizer_config.json": _json(settings)}
    if type(tokenizer) is SiglipTokenizer:  # which transformers reads as it is
        return contents | tokenizer.files()
    contents["tokenizer.json"] = tokenizer_json.make(tokenizer).to_str(pretty=False).encode()
    if isinstance(tokenizer, ClipTokenizer):
        contents["vocab.json"] = _json(_with_specials(tokenizer))
        contents["merges.txt"] = tokenizer.model
        return contents
    return contents | tokenizer.files()


SPECIAL: dict[type, dict[str, Any]] = {
    ClipTokenizer: {
        "tokenizer_class": "CLIPTokenizer",
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
        "add_prefix_space": False,
    },
    SentencePieceTokenizer: {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": START,
        "eos_token": END,
        "unk_token": "<unk>",
        "pad_token": "<pad>",
    },
    SiglipTokenizer: {
        "tokenizer_class": "SiglipTokenizer",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "</s>",
    },
    GemmaTokenizer: {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<eos>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "padding_side": "right",
    },
}


def _with_specials(tokenizer: ClipTokenizer) -> dict[str, int]:
    return tokenizer.vocabulary | {START: tokenizer.start_id, END: tokenizer.end_id}


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode()
