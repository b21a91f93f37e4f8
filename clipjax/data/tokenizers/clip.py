"""The released CLIP's tokenizer: byte-level BPE over a merges file that the user brings.

The vocabulary follows from the merges: 256 byte symbols, the same ending a word, one id a merge,
start and end of text: 49,408 with the released file (clip.py, simple_tokenizer.py). The release
takes the last two from a caption that spells them; here they are ordinary characters.
"""

import hashlib
import html
import importlib.util
import pathlib
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import ftfy
import numpy as np
import regex
import tokenizers

from clipjax.common.exits import ConfigError

MERGES_FILE = "clip_merges.txt"
PACKAGED = "bpe_simple_vocab_16e6.txt.gz"  # in the packages open_clip_torch and clip
PACKAGES = ("open_clip", "clip")
MAX_BYTES = 16 << 20  # of a merges file, unpacked; the released one has 3 MB
MERGES = 49_152 - 256 - 2  # that the release takes of its file's 262,144
END_OF_WORD = "</w>"
PIECES = regex.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", regex.IGNORECASE
)
PAD = 0  # also the id of "!", as released: what comes after the end of text is never looked at
CACHED = 1 << 16  # pieces whose ids are remembered
CACHED_LENGTH = 32  # characters of the longest of them


class ClipTokenizer:
    """[start] ids [end] padding, from text repaired, unescaped and lower-cased.

    Args:
      model: a merges file, plain or gzip: a header line, then two symbols a line. Those after the
        first 48,894 are dropped, as released.
      context_length: T, ids per caption, start and end included.

    Attributes:
      model: the lines that count, as bytes.
      vocab_size, start_id, end_id, hash: see `SentencePieceTokenizer`.

    Raises:
      ConfigError: the bytes are no merges file, or T is below 3.
    """

    FILE = MERGES_FILE
    CLEANING = "ftfy, HTML unescaped twice, white space collapsed, lower case"
    TRUNCATION = "end of text stays last"
    pad_id = PAD

    def __init__(self, model: bytes, *, context_length: int) -> None:
        if context_length < 3:
            raise ConfigError(
                f"config.model.text.context_length={context_length}: must be at least 3"
            )
        self.model = _lines_that_count(model)
        self.context_length = context_length
        self._load()

    def _load(self) -> None:
        lines = self.model.decode().split("\n")[1:-1]
        self.merges = [(left, right) for left, right in map(str.split, lines)]
        self.symbols = byte_symbols()
        self.words = [
            *self.symbols.values(),
            *(symbol + END_OF_WORD for symbol in self.symbols.values()),
            *map("".join, self.merges),
        ]
        self.vocabulary = {word: number for number, word in enumerate(self.words)}
        try:
            self._bpe = tokenizers.models.BPE(
                self.vocabulary, self.merges, end_of_word_suffix=END_OF_WORD
            )
        except Exception as error:  # of a merge whose parts no earlier line makes
            raise ConfigError(f"{MERGES_FILE}: {error}") from None
        self.start_id, self.end_id = len(self.words), len(self.words) + 1
        self.vocab_size = len(self.words) + 2
        self.hash = hashlib.sha256(self.model).hexdigest()
        self._cache: dict[str, list[int]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model, "context_length": self.context_length}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._load()

    def ids(self, text: str) -> list[int]:
        """The ids of a whole text, without start and end."""
        found: list[int] = []
        for piece in PIECES.findall(clean(text)):
            found += self._cache.get(piece) or self._piece(piece)
        return found

    def _piece(self, piece: str) -> list[int]:
        symbols = "".join(map(self.symbols.__getitem__, piece.encode("utf-8", "replace")))
        ids = [token.id for token in self._bpe.tokenize(symbols)]
        if len(self._cache) < CACHED and len(piece) <= CACHED_LENGTH:
            self._cache[piece] = ids
        return ids

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of N texts: (int32 [N, T], bool [N]), the second whether a text was cut to fit."""
        rows = np.full((len(texts), self.context_length), PAD, np.int32)
        truncated = np.zeros(len(texts), bool)
        room = self.context_length - 2
        for row, text in enumerate(texts):
            ids = self.ids(text)
            truncated[row] = len(ids) > room
            ids = [self.start_id, *ids[:room], self.end_id]
            rows[row, : len(ids)] = ids
        return rows, truncated

    def decode(self, ids: Iterable[int]) -> str:
        """The text of one row of ids, up to end of text."""
        kept = []
        for token in map(int, ids):
            if token == self.end_id:
                break
            if token != self.start_id:
                kept.append(self.words[token])
        numbers = {symbol: number for number, symbol in self.symbols.items()}
        text = "".join(kept).replace(END_OF_WORD, " ")
        content = bytes(numbers.get(symbol, ord(" ")) for symbol in text)
        return content.decode(errors="replace").strip()

    def files(self) -> dict[str, bytes]:
        """File name → bytes; `tokenizers.from_files` reads them back. Checkpoints carry these."""
        return {MERGES_FILE: self.model}


def clean(text: str) -> str:
    """Repaired (ftfy), HTML unescaped twice, white space collapsed, lower case: as released."""
    if not (text.isascii() and text.isprintable() and "&" not in text):  # else nothing to repair
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


def byte_symbols() -> dict[int, str]:
    """Byte → the character that stands for it, in the vocabulary's order: printable ones first."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [number for number in range(256) if number not in printable]
    return {number: chr(number) for number in printable} | {
        number: chr(256 + position) for position, number in enumerate(others)
    }


def packaged_merges() -> bytes:
    """The released merges file, from an installed package.

    Raises:
      ConfigError: none of the packages that carry it is installed; says what to do.
    """
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)  # without importing it
        for folder in (spec and spec.submodule_search_locations) or ():
            file = pathlib.Path(folder) / PACKAGED
            if file.is_file():
                return file.read_bytes()
    raise ConfigError(
        f"CLIP's tokenizer needs its merges file, {PACKAGED}: name it, or install a package that"
        " carries it (pip install open_clip_torch)"
    )


def _lines_that_count(model: bytes) -> bytes:
    try:
        if model[:2] == b"\x1f\x8b":
            unpacking = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
            model = unpacking.decompress(model, MAX_BYTES + 1)
        if len(model) > MAX_BYTES:
            raise ValueError("too long")
        header, *lines = model.decode().replace("\r\n", "\n").split("\n")
        lines = [line for line in lines if line][:MERGES]
        if not lines or any(len(line.split(" ")) != 2 for line in lines):
            raise ValueError("not two symbols a line")
    except (ValueError, zlib.error):
        raise ConfigError("not a file of CLIP's merges") from None
    return "\n".join([header, *lines, ""]).encode()
