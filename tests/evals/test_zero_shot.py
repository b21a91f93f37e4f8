"""Zero-shot counts against a plain loop; aliases, ties, NaN, padding, permuted names."""

import types

import jax
import numpy as np
import pytest

from clipjax.common.exits import DataError
from clipjax.data.source import Source, Spread
from clipjax.data.sources.scenes import Objects
from clipjax.evals import classification, embed, notes, prompts
from clipjax.evals.evaluated import EvaluatedModel
from clipjax.evals.evaluator import open_evaluator
from clipjax.evals.suites import set_data
from clipjax.parallel import mesh as meshes


@pytest.fixture(scope="module")
def mesh():
    return meshes.make_mesh({"data": 2, "fsdp": 4, "tensor": 1})


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def judge(image, weights, labels, mesh):
    classes = tuple(map(str, range(len(weights))))
    labels = np.asarray(labels, np.int32)
    return classification.judge(image, weights, labels=labels, classes=classes, mesh=mesh)


def values(result):
    return {name: found.value for name, found in classification.accuracies(result).items()}


@pytest.mark.parametrize(("images", "rows"), [(37, 8192), (37, 16), (5, 8192), (64, 32)])
def test_counts_equal_a_plain_loop_whatever_the_padding(mesh, images, rows, monkeypatch):
    monkeypatch.setattr(classification, "ROWS", rows)
    rng = np.random.default_rng(images)
    image, weights = unit(rng.normal(size=(images, 8))), unit(rng.normal(size=(11, 8)))
    labels = rng.integers(0, 10, images)  # class 10 has no images
    result = judge(image, weights, labels, mesh)
    scores = image.astype(np.float64) @ weights.T.astype(np.float64)
    confusion, top5 = np.zeros((11, 11), int), 0
    for row, label in zip(scores, labels, strict=True):
        best = np.argsort(-row)
        confusion[label, best[0]] += 1
        top5 += label in best[:5]
    np.testing.assert_array_equal(result.confusion, confusion)
    found = values(result)
    right = np.diagonal(confusion)
    assert found["top1_accuracy"] == right.sum() / images
    assert found["top5_accuracy"] == top5 / images
    each = [right[c] / np.sum(labels == c) for c in np.unique(labels)]
    assert found["mean_per_class_accuracy"] == pytest.approx(np.mean(each))


def test_no_top5_for_few_classes(mesh):
    rng = np.random.default_rng(0)
    result = judge(unit(rng.normal(size=(9, 4))), unit(rng.normal(size=(5, 4))), [0] * 9, mesh)
    assert "top5_accuracy" not in classification.accuracies(result)


def test_aliases_and_templates_are_averaged_in_embedding_space():
    rng = np.random.default_rng(1)
    table = prompts.Table({"a": ("x", "y", "z"), "b": ("w",)}, ("one {}", "two {}"))
    texts, owners, _ = prompts.make(("a", "b"), table=table, where="w").texts()
    embeds = {text: unit(rng.normal(size=6)) for text in texts}
    weights = classification.class_weights(np.stack([embeds[t] for t in texts]), owners=owners)
    for row, names in zip(weights, (("x", "y", "z"), ("w",)), strict=True):
        mean = np.mean([embeds[f"{n} {name}"] for n in ("one", "two") for name in names], axis=0)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), rtol=1e-6)


def test_opposite_prompts_give_zero_and_not_nan():
    weights = classification.class_weights(
        np.array([[1, 0], [-1, 0]], np.float32), owners=np.array([0, 0])
    )
    assert weights.tolist() == [[0, 0]]


@pytest.mark.parametrize("value", [1.0, 0.0, np.nan])
def test_a_collapsed_model_scores_nothing(mesh, value):
    image = np.full((20, 4), value, np.float32)
    result = judge(image, np.full((10, 4), value, np.float32), np.arange(20) % 10, mesh)
    assert set(values(result).values()) == {0.0}
    assert result.confusion.sum() == 20 and np.trace(result.confusion) == 0


def test_classes_with_equal_names_tie_and_are_wrong(mesh):
    weights = np.eye(6, dtype=np.float32)
    weights[1] = weights[0]
    result = judge(np.eye(6, dtype=np.float32)[[0, 0, 2, 3, 4, 5]], weights, range(6), mesh)
    assert np.diagonal(result.confusion).tolist() == [0, 0, 1, 1, 1, 1]
    assert result.confusion[0, 1] == result.confusion[1, 0] == 1
    assert values(result)["top5_accuracy"] == 1


def opened(source):
    return set_data.of_evaluator(source, name="x", kind="classification")


class Oracle:
    """An embedder that has read the labels: image i and "… name" lie on their class's axis."""

    def __init__(self, source, *, names):
        data = opened(source)
        keys, self.labels = data.keys, data.labels
        self.axis = {name: keys.index(key) for key, name in names.items()}

    def images(self, params, source, *, image_size, poll):
        return np.eye(len(self.axis), dtype=np.float32)[self.labels]

    def texts(self, params, texts, *, tokenizer, poll):
        where = [next(i for n, i in self.axis.items() if text.startswith(n)) for text in texts]
        return np.eye(len(self.axis), dtype=np.float32)[where]


def evaluator(mesh, source, **naming):
    table = prompts.table("objects", source=source, keys=(), where="w")
    model = EvaluatedModel(
        embedder=Oracle(source, names={key: names[0] for key, names in table.names.items()}),
        tokenizer=types.SimpleNamespace(
            context_length=99,
            encode=lambda texts: (np.arange(len(texts))[:, None], np.zeros(len(texts), bool)),
        ),
        image_size=8,
        mesh=mesh,
    )
    return open_evaluator("zero_shot", source, model=model, name="x", **naming)


def test_a_perfect_model_gets_everything_right_and_nothing_with_permuted_names(mesh):
    source = Objects(image_size=8, length=83)
    made = evaluator(mesh, source)
    metrics = made({}, poll=lambda: False)
    assert made.n == 83 and made.chance["top1_accuracy"] == 1 / 40
    assert set(made.chance) == set(metrics) - {"prompts_hash"}
    assert [value for key, value in metrics.items() if key != "prompts_hash"] == [1.0] * 4
    assert np.trace(made.details.confusion) == 83 and made.details.classes[0] == "a fox"
    control = evaluator(mesh, source, permute_names=True)({}, poll=lambda: False)
    assert control["top1_accuracy"] == control["single_prompt_top1_accuracy"] == 0
    assert control["prompts_hash"] != metrics["prompts_hash"]


def test_the_first_records_keep_all_classes(mesh):
    made = evaluator(mesh, Spread(Objects(image_size=8), 7))
    assert made.n == 7 and made({}, poll=lambda: False)["top1_accuracy"] == 1.0
    assert made.details.confusion.shape == (40, 40)


def test_classes_that_nothing_can_be_right_of_are_said_beside_the_figure(mesh):
    made = evaluator(mesh, Spread(Objects(image_size=8), 7))
    made({}, poll=lambda: False)
    assert [note.split(":")[0] for note in made.notes] == ["33 of 40 classes have no images here"]
    whole = evaluator(mesh, Objects(image_size=8, length=83))
    whole({}, poll=lambda: False)
    assert whole.notes == []
    number = np.array([1, 2, 1])
    names = ("crane", "heron", "ox")
    told = notes.of_alike([(0, 1)], names=names, number=number)
    assert told == (
        "2 of 3 classes have prompts that this model reads as the same: 'crane' (class 0) = 'heron'"
        " (class 1); none of their 3 images can be right"
    )
    assert notes.of_alike([(0, 1)], names=names, number=number, rivals=False).endswith(
        "so are their scores"
    )


class Records(list, Source):
    name = "records"

    def key(self, index):
        return f"number {index}"

    def label(self, index):
        return self[index].get("label")


def test_labels_are_read_from_records_where_the_source_does_not_tell():
    data = opened(Records([{"label": "b"}, {"label": "a"}, {"label": "b"}]))
    assert data.keys == ("a", "b") and data.labels.tolist() == [1, 0, 1]
    assert data.labels.dtype == np.int32


def test_missing_and_unknown_labels_are_named():
    with pytest.raises(DataError, match="source records: record 1 has no label"):
        _ = opened(Records([{"label": "b"}, {"text": "a"}])).labels
    odd = Records([{"label": "b"}])
    odd.labels = ("a",)
    with pytest.raises(DataError, match="record number 0 has the class 'b', which is none of the"):
        _ = opened(odd).labels


def test_counts_do_not_depend_on_the_mesh(mesh):
    rng = np.random.default_rng(2)
    image, weights = unit(rng.normal(size=(50, 8))), unit(rng.normal(size=(7, 8)))
    labels = rng.integers(0, 7, 50)
    one = meshes.make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, devices=jax.devices()[:1])
    here, there = (judge(image, weights, labels, m) for m in (mesh, one))
    np.testing.assert_array_equal(here.confusion, there.confusion)


class Linear:
    """A model whose image encoder is one matrix; exact in float32 for these small integers."""

    config = types.SimpleNamespace(embed_dim=8, image_resize="crop")

    def apply(self, variables, rows, *, method):
        assert method == "encode_image"
        flat = rows.reshape(len(rows), -1).astype(jax.numpy.float32)
        return flat @ variables["params"]


BATCH = 16


@pytest.mark.parametrize("devices", [1, 2, 8])
@pytest.mark.parametrize("n", [0, 1, BATCH - 1, BATCH, BATCH + 1, 1003])
def test_counts_equal_numpy_for_any_number_of_images(n, devices):
    """From pixels to counts: batches are padded and masked, and the padding never counts."""
    some = meshes.make_mesh(
        {"data": 1, "fsdp": devices, "tensor": 1}, devices=jax.devices()[:devices]
    )
    rng = np.random.default_rng(n)
    pixels = rng.integers(0, 9, (n, 2, 2, 3)).astype(np.uint8)
    params = rng.integers(-4, 5, (12, 8)).astype(np.float32)
    weights = rng.integers(-4, 5, (7, 8)).astype(np.float32)
    labels = rng.integers(0, 7, n).astype(np.int32)
    embedder = embed.Embedder(Linear(), mesh=some, batch_size=BATCH)
    embeds = embedder.pixels(
        {"params": params}, lambda i: {"image": pixels[i]}, length=n, poll=lambda: False
    )
    plain = pixels.reshape(n, 12).astype(np.float32) @ params
    np.testing.assert_array_equal(embeds, plain)
    result = judge(embeds, weights, labels, some)
    scores = plain @ weights.T
    wrong = np.arange(7) != labels[:, None]
    rank = np.sum(wrong & (scores >= scores[np.arange(n), labels][:, None]), axis=1)
    np.testing.assert_array_equal(result.rank, rank)
    np.testing.assert_array_equal(result.chosen == labels, rank == 0)
    assert result.confusion.sum() == n and np.sum(result.rank < 5) == np.sum(rank < 5)
    assert classification.accuracies(result)["top1_accuracy"].n == n


def test_images_without_numbers_are_reported(mesh):
    image = np.eye(4, dtype=np.float32)
    image[1, 2] = np.nan
    result = judge(image, np.eye(4, dtype=np.float32), range(4), mesh)
    assert result.not_finite == 1 and result.rank.tolist() == [0, 3, 0, 0]
    assert judge(image, np.full((4, 4), np.nan, np.float32), range(4), mesh).not_finite == 4
