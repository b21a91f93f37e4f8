"""CLIP's byte pairs: ids against a plain oracle and, marked interop, against open_clip's own."""

import gzip
import itertools
import pickle
import random
import time

import pytest

from clipjax.common.exits import ConfigError
from clipjax.data import tokenizers
from clipjax.data.tokenizers import clip as clip_tokenizer
from clipjax.data.tokenizers.clip import ClipTokenizer

PAIRS = ["t h", "th e</w>", "a t</w>", "c at</w>", "d o", "do g</w>", "i n", "in g</w>", "Ã ©</w>"]
MERGES = "\n".join(["#version: 0.2", *PAIRS, ""]).encode()
WORDS = [
    "a",
    "the",
    "photo",
    "of",
    "dog's",
    "CAT",
    "isn't",
    "they're",
    "I'll",
    "'Ve",
    "naïve",
    "café",
    "ünïcode",
    "日本語",
    "テスト",
    "한국어",
    "हिन्दी",
    "ไทย",
    "עברית",
    "عربى",
    "😀",
    "👩\u200d👩\u200d👧",
    "&amp;",
    "&lt;b&gt;",
    "&amp;amp;",
    "&#x27;",
    "12345",
    "½",
    "²",
    "ⅷ",
    "٣",
    "don’t",
    "it´s",
    "Ã©tÃ©",
    "â€œquote",
    "ﬁne",
    "ＦＯＸ",
    "İstanbul",
    "STRASSE",
    "ß",
    "ſ'S",
    "...",
    "!!!",
    "###",
    "_a_",
    "http://x.y/z?q=1&r=2",
    "@user",
    "#tag",
    "Ω",
    "<b>",
    "<",
    "|",
    "|>",
    "<|end|>",
]
WORDS += ["â€\x9d", "e\u0301", *"\u200b\u00a0\u3000\t\n\x00\x1f\x85\u2028"]
RANGES = ((32, 126), (160, 0x24F), (0x370, 0xFFF), (0x3000, 0xD7FF), (0xE000, 0x1FFFF))
# Ids of the released vocabulary without start and end; executed from the release's own tokenizer.
GOLDEN = {
    "": [],
    "a diagram": [320, 22697],
    "a dog": [320, 1929],
    "a cat": [320, 2368],
    "a photo of a dog.": [320, 1125, 539, 320, 1929, 269],
    "A Photo  of a   DOG!!": [320, 1125, 539, 320, 1929, 748],
    "it's 2021, can't": [585, 568, 273, 271, 273, 272, 267, 753, 713],
    "naïve café — ünïcode": [1097, 35689, 563, 15304, 2005, 6522, 77, 35689, 3217],
    "日本語 テスト": [39121, 44353, 34002, 508, 2429, 228, 32421, 486],
    "&lt;b&gt; &amp;amp; html": [283, 321, 285, 261, 18231],
    "😀 emoji": [7334, 16327],
    "123456": [272, 273, 274, 275, 276, 277],
    'a photo of the number: "7".': [320, 1125, 539, 518, 2842, 281, 257, 278, 2811],
    "antidisestablishmentarianism": [3120, 4262, 7726, 12658, 1585, 44351],
}


@pytest.fixture(scope="module")
def tokenizer():
    return ClipTokenizer(MERGES, context_length=12)


@pytest.fixture(scope="module")
def released():
    return ClipTokenizer(clip_tokenizer.packaged_merges(), context_length=77)


def captions(count, *, seed=0, noisy=0.3):
    rng = random.Random(seed)
    for _ in range(count):
        words = (
            rng.choice(WORDS) + rng.choice((" ", " ", "", "  ")) for _ in range(rng.randint(0, 14))
        )
        noise = ""
        if rng.random() < noisy:
            noise = "".join(
                chr(rng.randint(*rng.choice(RANGES))) for _ in range(rng.randint(1, 20))
            )
        yield "".join(words) + noise


def oracle(piece: str) -> list[str]:
    """One piece's symbols, merged the slow way: always the earliest line of the file first."""
    symbols = [clip_tokenizer.byte_symbols()[byte] for byte in piece.encode()]
    symbols[-1] += "</w>"
    while True:
        pairs = [f"{a} {b}" for a, b in itertools.pairwise(symbols)]
        found = [pair for pair in PAIRS if pair in pairs]
        if not found:
            return symbols
        at = pairs.index(found[0])
        symbols[at : at + 2] = ["".join(found[0].split())]


def test_ids_follow_the_merges(tokenizer):
    assert tokenizer.vocab_size == 512 + len(PAIRS) + 2
    assert (tokenizer.start_id, tokenizer.end_id) == (521, 522)
    for text in ("the cat", "dog", "thing 2", "cathedral", "é", "x"):
        pieces = clip_tokenizer.PIECES.findall(text)
        wanted = [tokenizer.vocabulary[s] for piece in pieces for s in oracle(piece)]
        assert tokenizer.ids(text) == wanted, text
    ids, truncated = tokenizer.encode(["The  CAT", ""])
    assert ids[0].tolist() == [521, 513, 515, 522] + [0] * 8
    assert ids[1].tolist() == [521, 522] + [0] * 10 and not truncated.any()
    assert tokenizer.decode(ids[0]) == "the cat"


def test_truncation_keeps_the_end_and_is_reported(tokenizer):
    ids, truncated = tokenizer.encode(["cat " * 10, "cat " * 11])
    assert truncated.tolist() == [False, True]
    assert ids[1].tolist() == [521] + [515] * 10 + [522]


@pytest.mark.parametrize("text", ["<|endoftext|>", "<|startoftext|>", "\ud800 lone", "\x00"])
def test_no_text_becomes_a_special_id(text):
    row = ClipTokenizer(MERGES, context_length=64).encode([text])[0][0]
    assert row.max() == 522 and (row == 522).sum() == 1 and (row == 521).sum() == 1


def test_other_forms_of_the_same_file(tokenizer):
    packed = ClipTokenizer(gzip.compress(MERGES), context_length=12)
    crlf = ClipTokenizer(MERGES.replace(b"\n", b"\r\n"), context_length=12)
    copy = pickle.loads(pickle.dumps(tokenizer))  # noqa: S301 (our own bytes)
    back = tokenizers.from_files(tokenizer.files(), context_length=12)
    assert packed.hash == crlf.hash == copy.hash == back.hash == tokenizer.hash
    assert copy.ids("the dog") == tokenizer.ids("the dog")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"only a header\n",
        b"header\none two three\n",
        b"header\nx qqq\n",
        b"\xff\xfe\x00",
        b"\x1f\x8b broken",
        gzip.compress(b"header\n" + b"a b\n" * (5 << 20)),
    ],
    ids=["empty", "header", "three", "unknown", "binary", "damaged", "bomb"],
)
def test_what_is_no_merges_file_is_one_line(content, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.tokenizer\.path: .*merges.*file") as caught:
        tokenizers.load(tmp_path / "file", kind="clip", context_length=12)
    assert "\n" not in str(caught.value)


def test_rules_are_stored_and_compared(tokenizer):
    stored = tokenizers.rules(tokenizer)
    assert stored["end"] == 522 and stored["context_length"] == 12
    tokenizers.check_rules(tokenizer, stored=stored, where="here")
    for name, value in {"padding": 1, "end": 5, "cleaning": "none"}.items():
        with pytest.raises(ConfigError, match=f"here: trained with tokenizer {name}"):
            tokenizers.check_rules(tokenizer, stored=stored | {name: value}, where="here")


@pytest.mark.interop
def test_golden_ids(released):
    assert released.vocab_size == 49_408
    assert {text: released.ids(text) for text in GOLDEN} == GOLDEN
    some = {0: "!", 256: "!</w>", 512: "in", 513: "th", 49_405: "jekyll</w>"}
    assert {number: released.words[number] for number in some} == some


@pytest.mark.interop
def test_ten_thousand_captions_as_open_clip_reads_them(released):
    import open_clip

    theirs = open_clip.SimpleTokenizer()
    for text in captions(10_000):
        assert released.ids(text) == theirs.encode(text), repr(text)
    texts = list(captions(500, seed=1))
    whole = released.encode(texts)[0]
    assert (whole == theirs(texts).numpy()).all()


@pytest.mark.interop
def test_a_megabyte_of_text(released):
    import open_clip

    rng = random.Random(0)
    text = " ".join(rng.choice(WORDS) for _ in range(220_000))
    assert len(text.encode()) > 1_000_000
    assert released.ids(text) == open_clip.SimpleTokenizer().encode(text)


@pytest.mark.parametrize("text", ["a" * 1_000_000, "!?" * 500_000, "é" * 500_000, "7" * 1_000_000])
def test_a_megabyte_without_spaces_takes_seconds(tokenizer, text):
    began = time.process_time()
    assert tokenizer.encode([text])[1].all()
    assert time.process_time() - began < 20
