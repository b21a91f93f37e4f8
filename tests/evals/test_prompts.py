"""Prompts: tables and data joined by key, templates that are only texts, and a hash of it all."""

import json
import types

import numpy as np
import pytest

from clipjax.common.exits import ConfigError
from clipjax.data.source import Source
from clipjax.data.sources.digits import Digits
from clipjax.data.sources.scenes import Objects
from clipjax.evals import class_names, prompts, suites

WHERE = "config.evals.pets"
PETS = prompts.Table({"n1": ("dog", "hound"), "n2": ("cat",), "n3": ("dog",)}, ("a {}", "the {}."))


def make(keys=("n1", "n2", "n3"), table=PETS, **changes):
    return prompts.make(keys, table=table, where=WHERE, **changes)


def test_all_names_in_all_templates_joined_by_key():
    made = make(("n3", "n1", "n2"))  # the data's order, not the table's
    texts, owners, singles = made.texts()
    assert made.keys == ("n3", "n1", "n2")
    assert texts == [
        "a dog", "the dog.", "a dog", "a hound", "the dog.", "the hound.", "a cat", "the cat."
    ]  # fmt: skip
    assert owners.tolist() == [0, 0, 1, 1, 1, 1, 2, 2]
    assert [texts[i] for i in singles] == ["a dog", "a dog", "a cat"]


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (("n1", "n2", "n3", "n4"), r"without names: 1 \('n4'\), not in the data: none"),
        (("n1", "n2"), r"without names: none, not in the data: 1 \('n3'\)"),
        (("dog", "cat", "n1"), r"without names: 2 \('dog', 'cat'\), not in the data: 2 \('n2', "),
    ],
)
def test_keys_must_be_the_datas(keys, told):
    with pytest.raises(ConfigError, match=told) as caught:
        make(keys)
    assert str(caught.value).startswith("config.evals.pets.classes") and "\n" not in str(caught)


def test_many_missing_keys_are_counted_not_listed():
    with pytest.raises(ConfigError, match=r"without names: 9 \('k0', .*'k4', …\)"):
        make([f"k{i}" for i in range(9)])


def test_one_class_is_refused():
    with pytest.raises(ConfigError, match="one class only"):
        make(("n1",), prompts.Table({"n1": ("dog",)}))


@pytest.mark.parametrize(
    "template", ["a dog", "{} and {}", "{0}", "{name}", "{:>9}", "{!r}", "{}{{", "{.__class__}", ""]
)
def test_templates_are_texts_with_one_place(template):
    with pytest.raises(ConfigError, match=r"config.evals.pets.templates: .*one {}"):
        make(templates=("a {}", template))


def test_names_are_never_formatted():
    table = prompts.Table({"a": ("{0} %s {x}",), "b": ("b",)}, ("the {}.",))
    assert make(("a", "b"), table).texts()[0] == ["the {0} %s {x}.", "the b."]


def test_permuted_names_leave_no_class_its_own():
    made = make(permute_names=True)
    assert made.names == (("cat",), ("dog",), ("dog", "hound"))
    assert made.keys == ("n1", "n2", "n3")


def test_the_hash_changes_with_anything_that_matters():
    hashes = {
        make().hash,
        make(("n2", "n1", "n3")).hash,
        make(templates=("a {}",)).hash,
        make(permute_names=True).hash,
    }
    assert len(hashes) == 4 and make().hash == make().hash
    assert all(len(value) == 8 and int(value, 16) >= 0 for value in hashes)


def table(name, source=None, keys=("n1", "n2")):
    source = source or types.SimpleNamespace(name="mine")
    return prompts.table(name, source=source, keys=keys, where=WHERE)


@pytest.mark.parametrize("source", [Objects(), Digits(split="test")], ids=lambda s: s.name)
def test_sources_that_are_shipped_have_their_tables(source):
    made = prompts.make(source.labels, table=table("", source), where=WHERE)
    texts, owners, _ = made.texts()
    assert len(made.templates) > 1 and np.bincount(owners).tolist() == [len(made.templates)] * len(
        source.labels
    )
    known = {text for i in range(40) for text in _captions(source, i)}
    assert known <= set(texts)  # the prompts speak as the captions do


def _captions(source, index):
    caption = source.caption(index)
    return [caption] if isinstance(caption, str) else caption


def test_other_sources_are_named_by_their_labels():
    assert table("", keys=("pug_dog", "cat")).names == {"pug_dog": ("pug dog",), "cat": ("cat",)}


def test_a_folder_named_like_a_source_of_ours_keeps_its_own_prompts():
    folder = Source()
    folder.name, folder.labels = "digits", ("0", "1")
    folder.class_names, folder.templates = ("nought", "one"), ("{}, drawn",)
    entry = suites.own("x", path="/data/digits", run=("zero_shot",))
    made, origin = class_names.of_set(entry, source=folder, keys=folder.labels)
    assert origin == "data"
    assert made.texts()[0] == ["nought, drawn", "one, drawn"]


def test_a_table_from_a_file(tmp_path):
    file = tmp_path / "pets.json"
    file.write_text(json.dumps({"names": {"n1": "dog", "n2": ["cat", "puss"]}}))
    assert table(str(file)) == prompts.Table({"n1": ("dog",), "n2": ("cat", "puss")})
    file.write_text(json.dumps({"names": {"n1": "dog"}, "templates": ["my {}"]}))
    assert table(str(file)).templates == ("my {}",)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"names": {"n1": []}}', '{"names": {"a": 3}}']
)
def test_a_file_that_is_no_table_is_told_what_to_hold(tmp_path, content):
    file = tmp_path / "pets.json"
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"pets.json: write {\"names\""):
        table(str(file))


def test_unknown_tables_are_named():
    with pytest.raises(ConfigError, match=r'"digit" is unknown \(did you mean "digits"\?\)'):
        table("digit")
    with pytest.raises(ConfigError, match="cannot be read"):
        table("nowhere/pets.json")


def test_a_prompt_that_does_not_fit_is_named():
    tokenizer = types.SimpleNamespace(
        context_length=9, encode=lambda texts: (None, np.array([len(text) > 9 for text in texts]))
    )
    with pytest.raises(ConfigError, match='"a hippopotamus" does not fit in the model\'s 9 tokens'):
        prompts.check_fit(["a cat", "a hippopotamus"], tokenizer=tokenizer, where=WHERE)
