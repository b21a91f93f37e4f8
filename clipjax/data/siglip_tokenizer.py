"""SigLIP's way with a SentencePiece vocabulary (T5's): no start, an end that is also the padding.

The vocabulary has padding 0, end 1, unknown 2, as T5 makes them; pieces, then end up to the context
length, so that the last position always is an end, where SigLIP reads a text (big_vision's
`tokenize(eos="sticky", pad_value=1)`).
"""

import string
from collections.abc import Iterable, Sequence

import numpy as np

from clipjax.common.exits import ConfigError
from clipjax.data.sentencepiece_tokenizer import SentencePieceTokenizer

END = 1
NO_PUNCTUATION = str.maketrans({**dict.fromkeys(string.punctuation), "_": " "})


class SiglipTokenizer(SentencePieceTokenizer):
    """Text without punctuation, in lower case, as pieces; see `SentencePieceTokenizer`.

    Raises:
      ConfigError: the bytes are no SentencePiece model, its piece 1 ends no text, or T is below 3.
    """

    FILE = "spiece.model"
    CLEANING = "punctuation removed, white space collapsed, lower case"
    pad_id = END

    def _load(self) -> None:
        super()._load()
        if self._processor.IdToPiece(END) != "</s>":
            raise ConfigError("not a SentencePiece model as T5's, whose piece 1 is </s>")
        self.start_id, self.end_id = None, END
        self.vocab_size = self._processor.GetPieceSize()

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of N texts: (int32 [N, T], bool [N]), the second whether a text was cut to fit."""
        ids = np.full((len(texts), self.context_length), END, np.int32)
        truncated = np.zeros(len(texts), bool)
        room = self.context_length - 1
        for row, text in enumerate(texts):
            pieces = self._processor.EncodeAsIds(clean(text))
            truncated[row] = len(pieces) > room
            ids[row, : min(len(pieces), room)] = pieces[:room]
        return ids, truncated

    def decode(self, ids: Iterable[int]) -> str:
        """The text of one row of ids, up to the end."""
        kept = []
        for token in map(int, ids):
            if token == END:
                break
            kept.append(token)
        return self._processor.DecodeIds(kept)


def clean(text: str) -> str:
    """No punctuation, one space for underscores and white space, lower case; as big_vision."""
    return " ".join(text.translate(NO_PUNCTUATION).lower().split())
