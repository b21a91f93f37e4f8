"""Balancing: counts as a naive reference's, the promised chances, the same draw everywhere."""

import numpy as np
import pytest

from clipjax.common.exits import ConfigError
from clipjax.curation import balance, matching
from clipjax.data.sources import selection
from clipjax.data.sources.selection import Selected
from tests.curation.pool import Pool


def naive(text, queries):
    """MetaCLIP's matching in its plainest form."""
    text = f" {text} "
    for mark in ",.;:?!`":
        text = text.replace(mark, f" {mark} ")
    for white in "\t\n\r":
        text = text.replace(white, " ")
    return [number for number, query in enumerate(queries) if f" {query} " in text]


def test_matching_is_the_naive_one():
    rng = np.random.default_rng(0)
    letters = ["a", "b", "ab", "ba", "a b", "b,", ",", ".", "A", "é", " ", "a b a", "-", "b-a"]
    queries = sorted(
        {" ".join(rng.choice(letters, rng.integers(1, 4))).strip() for _ in range(300)} - {""}
    )
    queries = [query for query in queries if query == " ".join(query.split())]
    matcher = matching.Matcher(queries)
    for _ in range(500):
        text = "".join(rng.choice([*letters, "\n", "\t"], rng.integers(0, 12)))
        assert matcher([text]).tolist() == naive(text, queries)
    assert len(queries) > 100


def test_whole_words_marks_case_and_several_captions():
    matcher = matching.Matcher(["dog", "hot dog", "cat", "dog."])
    assert matcher(["a hot dog"]).tolist() == [0, 1]
    assert matcher(["dogs, hotdog"]).tolist() == []
    assert matcher(["the dog."]).tolist() == [0]
    assert matcher(["cat", "dog"]).tolist() == [0, 2]
    assert matcher(["Dog"]).tolist() == []
    assert matching.Matcher(["Dog"], lower_case=True)(["a DOG"]).tolist() == [0]
    with pytest.raises(ConfigError, match="no queries"):
        matching.Matcher([])


def run(tmp_path, *, name="a", length=4000, num_workers=0, queries=None, per_query=50, seed=0):
    source = Pool(length, words=300)
    queries = queries or [f"w{n}" for n in range(400)]
    path = str(tmp_path / f"{name}.keep")
    found = balance.balance(
        source,
        matcher=matching.Matcher(queries),
        path=path,
        per_query=per_query,
        seed=seed,
        num_workers=num_workers,
        show=False,
    )
    return found, Selected(source, path=path)


def test_counts_and_selection(tmp_path):
    queries = [f"w{n}" for n in range(0, 400, 2)]
    found, selected = run(tmp_path, queries=queries)
    source = selected.source
    matches = [naive(source.caption(i), queries) for i in range(len(source))]
    wanted = np.bincount(np.concatenate(matches).astype(int), minlength=len(queries))
    assert found["before"].tolist() == wanted.tolist()
    assert found["matched"] == sum(map(bool, matches))
    kept = [selected.place(i) for i in range(len(selected))]
    assert all(matches[i] for i in kept) and found["kept"] == len(kept)
    after = np.bincount(
        np.concatenate([matches[i] for i in kept]).astype(int), minlength=len(queries)
    )
    assert found["after"].tolist() == after.tolist()
    rare = (wanted > 0) & (wanted <= 50)
    assert rare.sum() > 20 and (after[rare] == wanted[rare]).all()  # rare queries lose nothing
    assert after.max() < 0.9 * wanted.max()


def test_chances_are_the_promised_ones(tmp_path):
    """Of captions with one match only, a query with n matches keeps t / n."""
    queries = ["w0", "w1", "w2"]
    kept = np.zeros(3)
    for seed in range(20):
        found, selected = run(tmp_path, length=3000, queries=queries, per_query=100, seed=seed)
        for index in range(len(selected)):
            (*numbers,) = naive(selected.caption(index), queries)
            if len(numbers) == 1:
                kept[numbers[0]] += 1
    source = selected.source
    alone = np.zeros(3)
    for index in range(len(source)):
        (*numbers,) = naive(source.caption(index), queries)
        if len(numbers) == 1:
            alone[numbers[0]] += 1
    expected = 100 / found["before"]
    spread = np.sqrt(expected * (1 - expected) / (20 * alone))
    assert (np.abs(kept / (20 * alone) - expected) < 4 * spread).all()


def test_processes_and_chunks_change_nothing(tmp_path, monkeypatch):
    _, alone = run(tmp_path, name="a", length=700, per_query=5)
    monkeypatch.setattr(balance, "CHUNK", 64)
    _, small = run(tmp_path, name="b", length=700, per_query=5)
    _, together = run(tmp_path, name="c", length=700, per_query=5, num_workers=2)
    assert alone.fingerprint == small.fingerprint == together.fingerprint
    _, other = run(tmp_path, name="d", length=700, per_query=5, seed=1)
    assert other.fingerprint != alone.fingerprint


def test_of_a_selection(tmp_path, monkeypatch):
    """After `dedup`, say: the result is in terms of the whole source, so that one file trains."""
    monkeypatch.setattr(selection, "PIECE", 16)
    source = Pool(3001, words=300)
    keep = np.random.default_rng(0).random(3001) < 0.6
    first = selection.SelectionWriter(
        str(tmp_path / "a.keep"), length=3001, fingerprint=source.fingerprint
    )
    first.write(0, keep)
    first.close()
    inner = Selected(source, path=str(tmp_path / "a.keep"))
    matcher = matching.Matcher([f"w{n}" for n in range(0, 400, 3)])
    found = balance.balance(
        inner,
        matcher=matcher,
        path=str(tmp_path / "b.keep"),
        per_query=5,
        seed=0,
        num_workers=0,
        show=False,
    )
    made = Selected(source, path=str(tmp_path / "b.keep"))
    kept = [made.place(index) for index in range(len(made))]
    assert len(kept) == found["kept"] < found["matched"] < found["records"] == keep.sum()
    assert all(keep[index] and len(matcher([source.caption(index)])) for index in kept)
    counts = np.zeros(len(matcher.queries), int)
    for index in kept:
        counts[matcher([source.caption(index)])] += 1
    assert counts.tolist() == found["after"].tolist()


def test_what_is_told(tmp_path):
    found, _ = run(tmp_path)
    told = balance.describe(found, queries=[f"w{n}" for n in range(400)], per_query=50)
    assert "most frequent             'w0'" in told and "queries without a match   10" in told
    axis = balance.plot(found, per_query=50).axes[0]
    assert [line.get_label() for line in axis.lines][:2] == [
        "pool of 4,000",
        f"kept {found['kept']:,}",
    ]
