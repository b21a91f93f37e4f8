"""Our tokenizers as a `tokenizer.json`, which gives the same ids without clipjax."""

import functools
from typing import Any

from sentencepiece import sentencepiece_model_pb2 as proto
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Fast

from clipjax.data.tokenizers import Tokenizer
from clipjax.data.tokenizers.clip import END_OF_WORD, PIECES, ClipTokenizer
from clipjax.data.tokenizers.sentencepiece import SentencePieceTokenizer
from clipjax.data.tokenizers.siglip import GemmaTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
SPACE = "▁"  # that SentencePiece writes for a space


@functools.singledispatch
def make(tokenizer: Tokenizer) -> Fast:
    """The same ids from a text, start and end included, not cut and not padded.

    One difference: a caption that spells the name of a special token gets its id there.
    """
    raise TypeError(type(tokenizer))


@make.register
def _(tokenizer: ClipTokenizer) -> Fast:
    fast = Fast(
        models.BPE(
            vocab=tokenizer.vocabulary | {START: tokenizer.start_id, END: tokenizer.end_id},
            merges=tokenizer.merges,
            end_of_word_suffix=END_OF_WORD,
            unk_token=END,
        )
    )
    fast.normalizer = normalizers.Sequence(  # pyright: ignore
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    fast.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore
        [
            pre_tokenizers.Split(Regex(PIECES.pattern), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    fast.decoder = decoders.ByteLevel()  # pyright: ignore
    return _between_start_and_end(fast, tokenizer)


@make.register
def _(tokenizer: SentencePieceTokenizer) -> Fast:
    model = proto.ModelProto.FromString(tokenizer.model)  # pyright: ignore
    fast = Fast(_byte_pairs(model))
    fast.normalizer = normalizers.Sequence(  # pyright: ignore
        [
            normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap),
            normalizers.Replace(Regex("^ +| +$"), ""),
            normalizers.Replace(Regex(" {2,}"), " "),
            normalizers.Replace(Regex("^(?=.)"), " "),
            normalizers.Replace(" ", SPACE),
        ]
    )
    fast.decoder = decoders.Sequence(  # pyright: ignore
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1),
        ]
    )
    fast.add_special_tokens([AddedToken("<pad>", special=True), AddedToken("<unk>", special=True)])
    return _between_start_and_end(fast, tokenizer)


@make.register
def _(tokenizer: GemmaTokenizer) -> Fast:
    fast = Fast(_byte_pairs(proto.ModelProto.FromString(tokenizer.model)))  # pyright: ignore
    fast.normalizer = normalizers.Sequence(  # pyright: ignore
        [normalizers.Lowercase(), normalizers.Replace(" ", SPACE)]
    )
    fast.decoder = decoders.Sequence(  # pyright: ignore
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    end = tokenizer.END_PIECE
    fast.add_special_tokens([AddedToken(name, special=True) for name in ("<pad>", end, "<unk>")])
    fast.post_processor = processors.TemplateProcessing(  # pyright: ignore
        single=f"$A {end}", special_tokens=[(end, tokenizer.end_id)]
    )
    return fast


def _byte_pairs(model: Any) -> models.BPE:
    """SentencePiece joins the neighbours that make the best piece; here each pair that makes it is
    a merge, in the order of the pieces."""
    vocabulary = {piece.piece: number for number, piece in enumerate(model.pieces)}
    normal = {p.piece: p.score for p in model.pieces if p.type == p.NORMAL}
    merges = [
        (piece[:cut], piece[cut:])
        for piece in sorted(normal, key=lambda piece: -normal[piece])  # stable: equals stay so
        for cut in range(1, len(piece))
        if piece[:cut] in normal and piece[cut:] in normal
    ]
    return models.BPE(
        vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )


def _between_start_and_end(fast: Fast, tokenizer: Tokenizer) -> Fast:
    fast.add_special_tokens([AddedToken(START, special=True), AddedToken(END, special=True)])
    ends = [(START, tokenizer.start_id), (END, tokenizer.end_id)]
    for name, number in ends:
        assert fast.token_to_id(name) == number, (name, number)
    fast.post_processor = processors.TemplateProcessing(  # pyright: ignore
        single=f"{START} $A {END}", special_tokens=ends
    )
    return fast
