"""SigLIP's ways with other people's SentencePiece vocabularies: an end and no start.

SigLIP has T5's vocabulary: padding 0, end 1, unknown 2; pieces, then end up to the context length,
so that the last position always is an end, where SigLIP reads a text (big_vision's
`tokenize(eos="sticky", pad_value=1)`). SigLIP 2 has Gemma's: padding 0, end 1; lower case, pieces,
one end, padding (transformers' `Siglip2Tokenizer`, padded on the right).
"""

import string
from collections.abc import Iterable, Sequence

import numpy as np

from clipjax.common.exits import ConfigError
from clipjax.data.tokenizers.sentencepiece import SentencePieceTokenizer

END = 1  # in both vocabularies
NO_PUNCTUATION = str.maketrans({**dict.fromkeys(string.punctuation), "_": " "})


class SiglipTokenizer(SentencePieceTokenizer):
    """Text without punctuation, in lower case, as pieces; see `SentencePieceTokenizer`.

    Raises:
      ConfigError: the bytes are no SentencePiece model, its piece 1 ends no text, or T is below 3.
    """

    FILE = "spiece.model"
    CLEANING = "punctuation removed, white space collapsed, lower case"
    VOCABULARY, END_PIECE = "T5's", "</s>"
    pad_id = END

    def _load(self) -> None:
        super()._load()
        if self._processor.IdToPiece(END) != self.END_PIECE:
            raise ConfigError(
                f"not a SentencePiece model as {self.VOCABULARY}, whose piece 1 is {self.END_PIECE}"
            )
        self.start_id, self.end_id = None, END
        self.vocab_size = self._processor.GetPieceSize()

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of N texts: (int32 [N, T], bool [N]), the second whether a text was cut to fit."""
        ids = np.full((len(texts), self.context_length), self.pad_id, np.int32)
        truncated = np.zeros(len(texts), bool)
        room = self.context_length - 1
        for row, text in enumerate(texts):
            pieces = self._processor.EncodeAsIds(self.clean(text))
            truncated[row] = len(pieces) > room
            pieces = [*pieces[:room], END]
            ids[row, : len(pieces)] = pieces
        return ids, truncated

    def decode(self, ids: Iterable[int]) -> str:
        """The text of one row of ids, up to the end."""
        kept = []
        for token in map(int, ids):
            if token == END:
                break
            kept.append(token)
        return self._processor.DecodeIds(kept)

    @staticmethod
    def clean(text: str) -> str:
        """No punctuation, one space for underscores and white space, lower case; as big_vision."""
        return " ".join(text.translate(NO_PUNCTUATION).lower().split())


class GemmaTokenizer(SiglipTokenizer):
    """Text in lower case, otherwise as it is; see `SiglipTokenizer`."""

    FILE = "tokenizer.model"
    CLEANING = "lower case"
    VOCABULARY, END_PIECE = "Gemma's", "<eos>"
    pad_id = 0

    @staticmethod
    def clean(text: str) -> str:
        """Lower case."""
        return text.lower()
