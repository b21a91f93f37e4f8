"""The same WebDataset folders and the same weights, evaluated by CLIP_benchmark; marked interop."""

import json

import pytest

from clipjax.data.source import Spread
from clipjax.data.sources.digits import NAMES, Digits
from clipjax.data.sources.scenes import Scenes
from tests.data import webdatasets

pytestmark = pytest.mark.interop
CLOSE = 1e-4  # 0.01 point
TEMPLATES = ("a photo of the number {c}.", "{c}, a handwritten digit")


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    digits = Spread(Digits(split="test"), 150)
    webdatasets.of_source(folder / "digits", digits, names=NAMES, templates=TEMPLATES, shards=3)
    webdatasets.captioned(folder / "scenes", Spread(Scenes(split="test"), 70))
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A CLIP of one layer a tower, through clipjax and out again in open_clip's format."""
    pytest.importorskip("open_clip")
    from clipjax import convert
    from tests.weights import peers

    folder = tmp_path_factory.mktemp("weights")
    shape = {"vision": {"layers": 1}, "text": {"layers": 1}}
    peers.save_open_clip(folder / "original", peers.open_clip_config("ViT-B-32-quickgelu", **shape))
    convert.convert(str(folder / "original"), to="open_clip", output=str(folder / "exported"))
    return folder / "exported"


def theirs(exported, folder, *, task):
    """What CLIP_benchmark itself says."""
    pytest.importorskip("clip_benchmark")
    import open_clip
    import torch
    from clip_benchmark.datasets import builder
    from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
    from sklearn.metrics import balanced_accuracy_score

    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{exported}")
    tokenizer = open_clip.get_tokenizer("ViT-B-32-quickgelu")
    dataset = builder.build_wds_dataset("wds/x", transform, split="test", data_dir=str(folder))
    options = {"batch_size": None, "num_workers": 0}
    if task == "retrieval":
        collated = dataset.batched(16, collation_fn=builder.image_captions_collate_fn)
        loader = torch.utils.data.DataLoader(collated, **options)
        return zeroshot_retrieval.evaluate(
            model.eval(), loader, tokenizer, "cpu", amp=False, recall_k_list=[1, 5, 10]
        )
    loader = torch.utils.data.DataLoader(dataset.batched(16), **options)
    classifier = zeroshot_classification.zero_shot_classifier(
        model.eval(), tokenizer, dataset.classes, dataset.templates, "cpu", amp=False
    )
    # Its `evaluate` fails with NumPy 2.4 after this, where it makes a number of an array.
    logits, true = zeroshot_classification.run_classification(
        model, classifier, loader, "cpu", amp=False
    )
    five = (logits.topk(5).indices == true[:, None]).any(dim=1)
    return {
        "acc1": float((logits.argmax(dim=1) == true).double().mean()),
        "acc5": float(five.double().mean()),
        "mean_per_class_recall": balanced_accuracy_score(true, logits.argmax(dim=1)),
    }


def ours(exported, folder, tmp_path):
    from clipjax.evals import suites
    from clipjax.run import suites as run_suites

    run = ("zero_shot", "retrieval")
    suite = suites.Suite("both", (suites.own("x", path=str(folder), run=run),))
    run_suites.on_weights(str(exported), suite, output=str(tmp_path))
    record = json.loads((tmp_path / "both" / "x.json").read_text())
    (made,) = record["measurements"].values()
    return {name: figure["value"] for name, figure in made["figures"].items()}


def test_classification_is_the_same(exported, sets, tmp_path):
    expected = theirs(exported, sets / "digits", task="classification")
    found = ours(exported, sets / "digits", tmp_path)
    assert found["top1_accuracy"] == pytest.approx(expected["acc1"], abs=CLOSE)
    assert found["top5_accuracy"] == pytest.approx(expected["acc5"], abs=CLOSE)
    mean = expected["mean_per_class_recall"]
    assert found["mean_per_class_accuracy"] == pytest.approx(mean, abs=CLOSE)


def test_retrieval_is_the_same(exported, sets, tmp_path):
    expected = theirs(exported, sets / "scenes", task="retrieval")
    found = ours(exported, sets / "scenes", tmp_path)
    for k in (1, 5, 10):
        for way, name in (("image_to_text", "text"), ("text_to_image", "image")):
            value = expected[f"{name}_retrieval_recall@{k}"]
            assert found[f"{way}_recall_at_{k}"] == pytest.approx(value, abs=CLOSE)
