"""SentencePiece vocabularies: training, ids, truncation, limits, files."""

import hashlib
import pickle
import subprocess
import sys

import numpy as np
import pytest

from clipjax.common.exits import ConfigError, DataError
from clipjax.data import tokenizers
from clipjax.data.tokenizers.sentencepiece import (
    MODEL_FILE,
    SentencePieceTokenizer,
    train_sentencepiece,
)
from tests.data import fakes

CAPTIONS = [fakes.sentence(i) for i in range(400)]
VOCAB = 340


@pytest.fixture(scope="module")
def model():
    return train_sentencepiece(CAPTIONS, vocab_size=VOCAB)


@pytest.fixture(scope="module")
def tokenizer(model):
    return SentencePieceTokenizer(model, context_length=24)


def test_ids_are_start_pieces_end_padding(tokenizer):
    ids, truncated = tokenizer.encode(["a fox left of a pizza", ""])
    assert ids.shape == (2, 24) and ids.dtype == np.int32
    assert truncated.dtype == bool and not truncated.any()
    assert tokenizer.vocab_size == VOCAB
    assert (tokenizer.start_id, tokenizer.end_id) == (VOCAB - 2, VOCAB - 1)
    assert ids[1].tolist() == [VOCAB - 2, VOCAB - 1] + [0] * 22
    end = ids[0].argmax()
    assert ids[0, 0] == VOCAB - 2 and ids[0, end] == VOCAB - 1
    assert (ids[0, 1:end] >= 2).all() and (ids[0, 1:end] < VOCAB - 2).all()
    assert (ids[0, end + 1 :] == 0).all()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a fox left of a pizza 12", None),
        ("A FOX  Left Of", "a fox left of"),
        ("naïve café", None),
        ("日本 😀", None),
        ("ﬁne ＦＯＸ", "fine fox"),
    ],
)
def test_round_trip(model, text, expected):
    long = SentencePieceTokenizer(model, context_length=64)
    ids, truncated = long.encode([text])
    assert not truncated[0]
    assert long.decode(ids[0]) == (expected or text)


def test_truncation_keeps_the_end_and_is_reported(tokenizer):
    text = " ".join(fakes.WORDS * 6)
    ids, truncated = tokenizer.encode([text, "fox"])
    assert truncated.tolist() == [True, False]
    assert ids[0, -1] == tokenizer.end_id and ids[0, 0] == tokenizer.start_id
    assert text.startswith(tokenizer.decode(ids[0]))


def test_a_text_that_just_fits_is_not_truncated(tokenizer):
    ids, _ = tokenizer.encode(["fox owl pizza"])
    length = int(ids[0].argmax()) + 1
    exact = SentencePieceTokenizer(tokenizer.model, context_length=length)
    fitted, truncated = exact.encode(["fox owl pizza"])
    assert not truncated[0]
    np.testing.assert_array_equal(fitted[0], ids[0, :length])


@pytest.mark.parametrize(
    "text", ["<pad>", "<unk>", "<s> </s>", "<|endoftext|>", "<|startoftext|>", "<0x41>", "\x00"]
)
def test_no_text_becomes_a_special_id(model, text):
    long = SentencePieceTokenizer(model, context_length=64)
    row = long.encode([text])[0][0]
    inner = row[1 : row.argmax()]
    assert not set(inner) & {0, 1, long.start_id, long.end_id}
    assert (row[row.argmax() + 1 :] == 0).all()


def test_pickles_without_the_processor(tokenizer):
    copy = pickle.loads(pickle.dumps(tokenizer))  # noqa: S301 (our own bytes)
    assert copy.hash == tokenizer.hash == hashlib.sha256(tokenizer.model).hexdigest()
    np.testing.assert_array_equal(copy.encode(CAPTIONS)[0], tokenizer.encode(CAPTIONS)[0])


def test_files_round_trip(tokenizer, tmp_path):
    files = tokenizer.files()
    tokenizers.publish(files, folder=tmp_path / "new" / "tokenizer")
    tokenizers.publish(files, folder=tmp_path / "new" / "tokenizer")  # again, over it
    folder = tmp_path / "new" / "tokenizer"
    assert sorted(path.name for path in folder.iterdir()) == sorted(files)
    by_folder = tokenizers.load(folder, kind="sentencepiece", context_length=24)
    by_file = tokenizers.load(folder / MODEL_FILE, kind="sentencepiece", context_length=24)
    from_bytes = tokenizers.from_files(files, context_length=24)
    assert by_folder.hash == by_file.hash == from_bytes.hash == tokenizer.hash


def test_load_errors_name_the_path(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*nothing"):
        tokenizers.load(tmp_path / "nothing", kind="sentencepiece", context_length=8)
    (tmp_path / "text").write_text("no model at all")
    with pytest.raises(ConfigError, match=r"not a SentencePiece model.*text"):
        tokenizers.load(tmp_path / "text", kind="sentencepiece", context_length=8)
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(ConfigError, match="not a SentencePiece model"):
        tokenizers.load(tmp_path / "empty", kind="sentencepiece", context_length=8)
    with pytest.raises(ConfigError, match=MODEL_FILE):
        tokenizers.from_files({"vocabulary.json": b""}, context_length=8)


def test_context_length_must_hold_start_one_piece_and_end(model):
    with pytest.raises(ConfigError, match="context_length"):
        SentencePieceTokenizer(model, context_length=2)


def test_training_is_deterministic(model):
    again = train_sentencepiece(iter(CAPTIONS), vocab_size=VOCAB)
    assert again == model
    code = (
        "import sys, hashlib; sys.path[:0] = sys.argv[1:];"
        " from tests.data import test_tokenizers as t;"
        " model = t.train_sentencepiece(t.CAPTIONS, vocab_size=t.VOCAB);"
        " print(hashlib.sha256(model).hexdigest())"
    )
    paths = [path for path in sys.path if path]
    run = subprocess.run(
        [sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True
    )
    assert run.stdout.split()[-1] == hashlib.sha256(model).hexdigest()


def test_a_vocabulary_larger_than_the_captions_support_names_the_maximum():
    with pytest.raises(ConfigError, match=r"vocab_size=49408: .*at most \d+") as caught:
        train_sentencepiece(CAPTIONS, vocab_size=49_408)
    message = str(caught.value)
    assert "\n" not in message
    maximum = int(message.split("at most ")[1].split(",")[0])
    model = train_sentencepiece(CAPTIONS, vocab_size=maximum)
    assert SentencePieceTokenizer(model, context_length=8).vocab_size == maximum
    with pytest.raises(ConfigError, match=f"at most {maximum}"):
        train_sentencepiece(CAPTIONS, vocab_size=maximum + 1)


@pytest.mark.parametrize("vocab_size", [3, 200, 260])
def test_a_vocabulary_below_the_characters_names_the_minimum(vocab_size):
    with pytest.raises(ConfigError, match=r"at least \d+") as caught:
        train_sentencepiece(CAPTIONS, vocab_size=vocab_size)
    assert "\n" not in str(caught.value)
    minimum = int(str(caught.value).split("at least ")[1])
    model = train_sentencepiece(CAPTIONS, vocab_size=minimum)
    assert SentencePieceTokenizer(model, context_length=8).vocab_size == minimum
    with pytest.raises(ConfigError, match="at least"):
        train_sentencepiece(CAPTIONS, vocab_size=minimum - 1)


def test_no_captions_at_all():
    with pytest.raises(DataError, match="no captions"):
        train_sentencepiece([], vocab_size=1000)


def test_an_error_in_reading_the_captions_keeps_its_kind_and_text():
    def some():
        yield from CAPTIONS[:50]
        raise DataError("7.tar: changed while in use")

    with pytest.raises(DataError, match=r"^7\.tar: changed while in use$"):
        train_sentencepiece(some(), vocab_size=VOCAB)
