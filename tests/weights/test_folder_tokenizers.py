"""Tokenizers in other programs' folders: used where clipjax has the same rules, else refused."""

import copy
import json

import pytest

from clipjax.build import pretrained
from clipjax.common.exits import CleanExit, DataError
from clipjax.data.tokenizers.siglip import SiglipTokenizer
from clipjax.weights import formats
from tests.weights import small, vocabulary

VALUES = (None, "", [], [32, 48], "x", -1, 0, 1e30, True, {})
KEYS = ("model", "model.vocab", "model.merges", "normalizer", "pre_tokenizer", "added_tokens")


@pytest.fixture
def folder(tmp_path):
    small.write(tmp_path / "a", small.model(), to="huggingface")
    return tmp_path / "a"


def changed(folder, change):
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return folder


def keep_capitals(content):
    steps = content["normalizer"]["normalizers"]
    content["normalizer"]["normalizers"] = [s for s in steps if s["type"] != "Lowercase"]


def strip_accents(content):
    content["normalizer"]["normalizers"] += [{"type": "NFD"}, {"type": "StripAccents"}]


def whole_numbers(content):
    split = content["pre_tokenizer"]["pretokenizers"][0]
    split["pattern"]["Regex"] = split["pattern"]["Regex"].replace(r"[\p{N}]", r"[\p{N}]+")


def at_spaces(content):
    content["pre_tokenizer"]["pretokenizers"][0] = {"type": "WhitespaceSplit"}


@pytest.mark.parametrize("change", [keep_capitals, strip_accents, whole_numbers, at_spaces])
def test_other_rules_than_clip_s_are_found_out(change, folder):
    assert pretrained.read_tokenizer(folder).vocab_size == 520
    with pytest.raises(DataError, match=r"tokenizer\.json: gives .* other ids than CLIP's rules"):
        pretrained.read(changed(folder, change))


def test_a_siglip_that_keeps_capitals_is_refused(tmp_path):
    spiece = vocabulary.t5_like(tmp_path, vocab_size=320)
    formats.write(
        tmp_path / "a",
        to="huggingface",
        model=small.siglip(),
        variables=small.variables(small.siglip()),
        tokenizer=SiglipTokenizer(spiece.read_bytes(), context_length=8),
    )
    file = tmp_path / "a" / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    for value, taken in ((True, True), (None, True), (False, False), ("no", False)):
        file.write_text(json.dumps(settings | {"do_lower_case": value}))
        if taken:
            pretrained.read(tmp_path / "a")
            continue
        with pytest.raises(DataError, match=f"do_lower_case={value!r} is not supported"):
            pretrained.read(tmp_path / "a")


def test_any_value_in_a_tokenizer_is_right_or_one_line(folder):
    file = folder / "tokenizer.json"
    right = json.loads(file.read_text())
    taken = set()
    for key in KEYS:
        for value in VALUES:
            content = copy.deepcopy(right)
            *path, last = key.split(".")
            part = content[path[0]] if path else content
            part[last] = value
            file.write_text(json.dumps(content))
            try:
                pretrained.read(folder)
                taken.add((key, json.dumps(value)))
            except CleanExit as error:
                line = str(error)
                assert "\n" not in line and len(line) < 400 and folder.name in line
    assert taken == {("added_tokens", "[]")}


@pytest.mark.parametrize("name", ["vocab.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["[]", "{", '{"the": [1]}', '{"the": "' + "x" * 9999 + '"}'])
def test_a_damaged_file_is_one_line(name, content, folder):
    if name == "vocab.json":
        (folder / "tokenizer.json").unlink()
    (folder / name).write_text(content)
    try:
        pretrained.read(folder)
        assert name == "tokenizer_config.json" and '"the"' in content  # which says nothing of texts
    except CleanExit as error:
        assert "\n" not in str(error) and len(str(error)) < 400
