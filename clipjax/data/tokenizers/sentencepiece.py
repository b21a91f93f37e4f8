"""Captions → token ids with SentencePiece vocabularies of our own.

SentencePiece's V pieces come first; this module adds start-of-text V and end-of-text V + 1, as
CLIP does: end-of-text is the largest id, so pooling by id and by argmax agree, and nothing that a
caption contains can produce either. `clipjax.build` makes the tokenizer; the loader uses it.
"""

import hashlib
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import sentencepiece

from clipjax.common.exits import ConfigError, DataError

MODEL_FILE = "sentencepiece.model"
PAD = 0  # the vocabulary's own padding piece, as in the release (id 0); no text encodes to it
SPECIALS = 2  # start of text, end of text
BYTE_PIECES = 258  # pieces that every vocabulary has: padding, unknown and the 256 bytes
TOO_SMALL = "smaller than required_chars"  # in SentencePiece's message when V is too small


class SentencePieceTokenizer:
    """[start] ids [end] padding, lower-cased, open vocabulary (unknown characters become bytes).

    Args:
      model: a SentencePiece model, as bytes.
      context_length: T, ids per caption, start and end included.

    Attributes:
      vocab_size: pieces, start and end together.
      start_id, end_id: the two largest ids.
      hash: hex sha256 of the model, for comparing hosts and checkpoints.

    Raises:
      ConfigError: the bytes are no SentencePiece model, or T is below 3.
    """

    FILE = MODEL_FILE
    CLEANING = "the vocabulary's own normalisation"
    TRUNCATION = "end of text stays last"
    pad_id = PAD

    def __init__(self, model: bytes, *, context_length: int):
        if context_length < 3:
            raise ConfigError(
                f"config.model.text.context_length={context_length}: must be at least 3"
            )
        self.model = model
        self.context_length = context_length
        self._load()

    def _load(self) -> None:
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(self.model)
            pieces = self._processor.GetPieceSize()
        except RuntimeError:
            pieces = 0
        if not pieces:
            raise ConfigError("not a SentencePiece model")
        self.start_id = pieces
        self.end_id = pieces + 1
        self.vocab_size = pieces + SPECIALS
        self.hash = hashlib.sha256(self.model).hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model, "context_length": self.context_length}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._load()

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of N texts.

        Returns:
          (int32 [N, T], bool [N]): the ids, and whether a text was cut to fit (end-of-text stays
          last).
        """
        ids = np.full((len(texts), self.context_length), PAD, dtype=np.int32)
        truncated = np.zeros(len(texts), dtype=bool)
        room = self.context_length - SPECIALS
        for row, text in enumerate(texts):  # given a list, SentencePiece starts threads per call
            pieces = self._processor.EncodeAsIds(text)
            truncated[row] = len(pieces) > room
            pieces = [self.start_id, *pieces[:room], self.end_id]
            ids[row, : len(pieces)] = pieces
        return ids, truncated

    def decode(self, ids: Iterable[int]) -> str:
        """The text of one row of ids, up to end-of-text, without the special ids."""
        kept = []
        for token in map(int, ids):
            if token == self.end_id:
                break
            if token not in (PAD, self.start_id):
                kept.append(token)
        return self._processor.DecodeIds(kept)

    def files(self) -> dict[str, bytes]:
        """File name → bytes; `tokenizers.from_files` reads them back. Checkpoints carry these."""
        return {self.FILE: self.model}


def train_sentencepiece(
    captions: Iterable[str],
    *,
    vocab_size: int,
    exact: bool = True,
    setting: str = "config.model.text.vocab_size",
) -> bytes:
    """Train a byte-pair vocabulary; the same captions give the same bytes.

    Text is NFKC-normalised and case-folded, digits are split one by one, characters unknown to the
    vocabulary fall back to bytes.

    Args:
      captions: cleaned captions; see `clipjax.data.captions.sample`.
      vocab_size: ids in all, start and end of text included (49,408 in the paper's table 18).
      exact: False takes fewer where the captions cannot fill it.
      setting: that `vocab_size` comes from, for errors.

    Returns:
      The SentencePiece model, as bytes.

    Raises:
      ConfigError: the captions cannot fill `vocab_size`, or their characters alone do not fit;
        names the largest or smallest size possible.
      DataError: there are no captions. Errors in reading them pass through.
    """
    unreadable: list[Exception] = []
    sentences = _noting_errors(captions, into=unreadable)
    first = next(sentences, None)
    if first is None:
        raise DataError("tokenizer: the training data hold no captions to make a vocabulary from")
    writer = io.BytesIO()
    pieces = vocab_size - SPECIALS
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=itertools.chain([first], sentences),
            model_writer=writer,
            model_type="bpe",
            vocab_size=max(pieces, BYTE_PIECES),  # below that its message has no numbers
            hard_vocab_limit=False,  # stop where the captions are exhausted; checked below
            normalization_rule_name="nmt_nfkc_cf",
            byte_fallback=True,
            split_digits=True,
            pad_id=PAD,
            unk_id=1,
            bos_id=-1,
            eos_id=-1,
            max_sentence_length=1 << 16,  # bytes; the default silently drops longer captions
            num_threads=1,  # the count is stored in the model, so it must not follow the machine
            minloglevel=2,
        )
    except RuntimeError as error:
        if unreadable:  # SentencePiece makes its own of it
            raise unreadable[0] from None
        message = str(error)
        if TOO_SMALL not in message:
            raise ConfigError(f"tokenizer: training failed: {message.splitlines()[-1]}") from None
        needed = int(message.split("required_chars. ")[1].split(" vs ")[1].split(".")[0])
        raise ConfigError(
            f"{setting}={vocab_size}: too small for the characters of these"
            f" captions; use at least {needed + SPECIALS}"
        ) from None
    model = writer.getvalue()
    reached = sentencepiece.SentencePieceProcessor(model_proto=model).GetPieceSize()
    if exact and reached < pieces:
        raise ConfigError(
            f"{setting}={vocab_size}: more than these captions support;"
            f" use at most {reached + SPECIALS}, or name a vocabulary in config.tokenizer.path"
        )
    return model


def _noting_errors(captions: Iterable[str], *, into: list[Exception]) -> Iterator[str]:
    try:
        yield from captions
    except Exception as error:
        into.append(error)
        raise
