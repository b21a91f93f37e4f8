"""The list of queries from texts, titles and synsets."""

import pytest

from clipjax.common.exits import ConfigError
from clipjax.curation import matching, queries


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_papers_kinds(tmp_path):
    line = "The polar bear sat; the bear ate. New York's mayor saw a café."
    text = write(tmp_path / "a.txt", (line + "\n") * 60 + "rare words here\n" * 3)
    other = write(tmp_path / "b.txt", "the sun and the moon and the sea and the sky\n" * 60)
    titles = write(tmp_path / "titles", "Polar_bear\t900\nObscure\t3\nList:Things\t999\nParis\n")
    synsets = write(
        tmp_path / "index.noun", "  1 licence text\npolar_bear n 1 2 @ ~ 1 0 123\ncat n 8\n"
    )
    found, counts = queries.build(
        texts=[text, other], titles=[titles], synsets=[synsets], min_count=60, min_information=3.5
    )
    assert found[0] == "the" and {"bear", "york's", "café", "mayor"} <= set(found)
    assert "rare" not in found and "Obscure" not in found and "List:Things" not in found
    assert "polar bear" in found and "new york's" in found and "the bear" not in found
    assert (
        found.index("the") < found.index("polar bear") < found.index("Paris") < found.index("cat")
    )
    assert found.count("polar bear") == 1  # WordNet's is already there
    assert counts["titles"] == 2 and counts["synsets"] == 1
    assert sum(counts.values()) == len(found) == len(set(found))
    few, _ = queries.build(texts=[text], min_count=60, limit=4)
    assert len(few) == 4
    kept = write(tmp_path / "queries.txt", "\n".join([*found, "", found[0]]))
    assert matching.read_queries(kept) == found


def test_bigrams_are_counted_in_bounded_memory(tmp_path, monkeypatch):
    lines = [f"red fox number n{i} n{i * 7 % 50}" for i in range(2000)]
    text = write(tmp_path / "a.txt", "\n".join(lines))
    whole, _ = queries.build(texts=[text], min_count=20, min_information=1)
    monkeypatch.setattr(queries, "MAX_BIGRAMS", 60)
    bounded, _ = queries.build(texts=[text], min_count=20, min_information=1)
    assert "red fox" in whole and "red fox" in bounded


def test_refusals(tmp_path):
    with pytest.raises(ConfigError, match=r"--text=none.txt: cannot be read"):
        queries.build(texts=["none.txt"])
    with pytest.raises(ConfigError, match="no word occurs 100 times"):
        queries.build(texts=[write(tmp_path / "a", "a b c")])
