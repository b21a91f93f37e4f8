"""SentencePiece vocabularies made as T5's (padding 0, end 1, unknown 2) and Gemma's are."""

import io
import pathlib

import sentencepiece

SENTENCE = "a photo of the dog cat bird tree on in grass water red blue green big small two"
WORDS = SENTENCE.split()


def t5_like(folder: pathlib.Path, *, vocab_size: int = 32_000) -> pathlib.Path:
    """The file; symbols that mean nothing fill it to the size."""
    model = _trained(
        "{a} {b} {c} {code}",
        model_type="unigram",
        vocab_size=vocab_size,
        user_defined_symbols=[f"fill{number}x" for number in range(vocab_size - 300)],
        unk_id=2,
        bos_id=-1,
    )
    from sentencepiece import sentencepiece_model_pb2 as proto

    made = proto.ModelProto.FromString(model)
    while len(made.pieces) < vocab_size:
        piece = made.pieces.add()
        piece.piece, piece.score, piece.type = f"more{len(made.pieces)}x", -100.0, piece.UNUSED
    file = folder / "spiece.model"
    file.write_bytes(made.SerializeToString())
    return file


def gemma_like(folder: pathlib.Path, *, vocab_size: int = 400) -> pathlib.Path:
    """The file: padding 0, end 1, start 2, unknown 3; nothing normalised, spaces kept."""
    model = _trained(
        "{a} {b}  {c}, {code}!",
        model_type="bpe",
        vocab_size=vocab_size,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        split_digits=True,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
    )
    file = folder / "tokenizer.model"
    file.write_bytes(model)
    return file


def _trained(sentence: str, **settings) -> bytes:
    """A model of sentences of this form; padding is 0, end 1, unknown characters become bytes."""
    words = [(a, b, c) for a in WORDS for b in WORDS for c in WORDS[:9]]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=(sentence.format(a=a, b=b, c=c, code=ord(a[0])) for a, b, c in words),
        model_writer=model,
        hard_vocab_limit=False,
        byte_fallback=True,
        pad_id=0,
        eos_id=1,
        num_threads=1,
        minloglevel=2,
        **settings,
    )
    return model.getvalue()
