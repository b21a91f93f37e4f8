"""Rank counting against a plain ranking, ties, several captions, padding."""

import jax
import numpy as np
import pytest

from clipjax.evals.protocols import loss, retrieval
from clipjax.evals.protocols.registry import RECALLS
from clipjax.parallel import mesh as meshes


@pytest.fixture(scope="module")
def mesh():
    return meshes.make_mesh({"data": 2, "fsdp": 4, "tensor": 1})


def unit(rng, *shape):
    x = rng.normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def recalls(image, text, *, text_image, mesh):
    ranks = retrieval.Retrieved.of(image, text, text_image=text_image, mesh=mesh).ranks
    found = retrieval.figures(ranks, text_image=text_image)
    return {name: found[name].value for name in RECALLS}


def plain_recalls(image, text, text_image):
    """Sort every row of the whole matrix, in float64."""
    scores = image.astype(np.float64) @ text.astype(np.float64).T
    result = {}
    for k in (1, 5, 10):
        best = np.argsort(-scores, axis=1)[:, :k]
        hits = [i in text_image[best[i]] for i in range(len(image))]
        result[f"image_to_text_recall_at_{k}"] = np.mean(hits)
        best = np.argsort(-scores.T, axis=1)[:, :k]
        hits = [text_image[j] in best[j] for j in range(len(text))]
        result[f"text_to_image_recall_at_{k}"] = np.mean(hits)
    return result


@pytest.mark.parametrize("images", [37, 64])
def test_equals_sorting_the_whole_matrix(mesh, images, monkeypatch):
    monkeypatch.setattr(retrieval, "BLOCK", 16)  # several blocks, the last one padded
    rng = np.random.default_rng(0)
    text_image = np.sort(rng.integers(0, images, 3 * images)).astype(np.int32)
    text_image[:images] = np.arange(images)  # at least one caption each
    image = unit(rng, images, 8)
    text = image[text_image] + 0.6 * unit(rng, 3 * images, 8)
    text /= np.linalg.norm(text, axis=-1, keepdims=True)
    found = recalls(image, text, text_image=text_image, mesh=mesh)
    wanted = plain_recalls(image, text, text_image)
    assert found == pytest.approx(wanted)
    assert 0.1 < found["image_to_text_recall_at_1"] < 0.95, "the test must be able to fail"


def test_a_collapsed_model_gets_nothing(mesh):
    same = np.tile(unit(np.random.default_rng(0), 1, 8), (40, 1))
    found = recalls(same, same, text_image=np.arange(40), mesh=mesh)
    assert set(found.values()) == {0.0}


def test_a_perfect_model_gets_all(mesh):
    image = unit(np.random.default_rng(0), 40, 16)
    found = recalls(image, image, text_image=np.arange(40), mesh=mesh)
    assert set(found.values()) == {1.0}


def test_ranks(mesh):
    candidates = np.eye(4, dtype=np.float32)
    query = np.array([[0.5, 0.9, 0.7, 0.6]], np.float32)
    ranks, _ = retrieval.rank(
        query,
        query_owner=np.array([0]),
        candidates=candidates,
        candidate_owner=np.arange(4),
        mesh=mesh,
    )
    assert ranks.tolist() == [3]


def test_loss_equals_a_float64_oracle():
    rng = np.random.default_rng(1)
    image, text = unit(rng, 20, 8), unit(rng, 20, 8)
    total = 0.0
    for rows in (slice(0, 8), slice(8, 16), slice(16, 20)):
        logits = 7.0 * image[rows].astype(np.float64) @ text[rows].astype(np.float64).T
        for matrix in (logits, logits.T):
            total -= np.sum(np.diag(matrix) - np.log(np.sum(np.exp(matrix), axis=1))) / 2
    found = loss.contrastive_loss(image, text, logit_scale=7.0, batch_size=8)
    assert found == pytest.approx(total / 20, rel=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("each", [1, 3])
def test_chance_is_what_random_scores_give(mesh, each):
    text_image = np.repeat(np.arange(20, dtype=np.int32), each)
    rng = np.random.default_rng(0)
    runs = [
        recalls(unit(rng, 20, 64), unit(rng, 20 * each, 64), text_image=text_image, mesh=mesh)
        for _ in range(60)
    ]
    expected = retrieval.chance_of(text_image)
    for metric, level in expected.items():
        assert np.mean([run[metric] for run in runs]) == pytest.approx(level, abs=0.05), metric
    assert expected["text_to_image_recall_at_5"] == 5 / 20


def test_embeddings_that_are_no_numbers_score_nothing(mesh):
    image = np.full((24, 8), np.nan, np.float32)
    found = recalls(image, image, text_image=np.arange(24, dtype=np.int32), mesh=mesh)
    assert set(found.values()) == {0.0}


@pytest.mark.parametrize(("images", "devices"), [(1, 8), (7, 8), (8, 2), (9, 1), (1003, 8)])
def test_ranks_equal_a_full_stable_argsort(images, devices):
    """Cosines are multiples of 1/16, so that ties are exact; wrong candidates stand first."""
    shape = {"data": 1, "fsdp": devices, "tensor": 1}
    some = meshes.make_mesh(shape, devices=jax.devices()[:devices])
    rng = np.random.default_rng(images)
    text_image = np.repeat(np.arange(images), rng.integers(1, 7, images)).astype(np.int32)
    image = rng.choice([-0.25, 0.25], (images, 16)).astype(np.float32)
    noisy = np.where(rng.random((len(text_image), 16)) < 0.2, -1, 1)
    text = image[text_image] * noisy.astype(np.float32)
    found = retrieval.Retrieved.of(image, text, text_image=text_image, mesh=some).ranks
    scores = image.astype(np.float64) @ text.T
    for direction, matrix, right in (
        ("image_to_text", scores, np.arange(images)[:, None] == text_image),
        ("text_to_image", scores.T, text_image[:, None] == np.arange(images)),
    ):
        for query, row in enumerate(matrix):
            listed = np.concatenate([np.flatnonzero(~right[query]), np.flatnonzero(right[query])])
            order = listed[np.argsort(-row[listed], kind="stable")]
            first = int(np.argmax(right[query][order]))
            assert found[direction][query] == first


def test_figures_are_the_recalls_with_intervals(mesh):
    rng = np.random.default_rng(0)
    image = unit(rng, 60, 8)
    text_image = np.repeat(np.arange(60, dtype=np.int32), 2)
    text = image[text_image] + 0.7 * unit(rng, 120, 8)
    text /= np.linalg.norm(text, axis=-1, keepdims=True)
    ranks = retrieval.Retrieved.of(image, text, text_image=text_image, mesh=mesh).ranks
    found = retrieval.figures(ranks, text_image=text_image)
    plain = recalls(image, text, text_image=text_image, mesh=mesh)
    assert {name: found[name].value for name in plain} == pytest.approx(plain)
    assert found["mean_recall"].value == pytest.approx(np.mean([*plain.values()]))
    ones = [plain["image_to_text_recall_at_1"], plain["text_to_image_recall_at_1"]]
    assert found["mean_recall_at_1"].value == pytest.approx(np.mean(ones))
    assert all(each.low < each.value < each.high for each in found.values() if each.value < 1)
    assert found["text_to_image_recall_at_1"].n == 120
