"""What stands beside a figure: ties, captions of several images, classes without images."""

import numpy as np
import pytest

from clipjax.evals import classification, notes
from clipjax.evals.protocols import retrieval
from clipjax.parallel import mesh as meshes


@pytest.fixture(scope="module")
def mesh():
    return meshes.make_mesh({"data": 2, "fsdp": 4, "tensor": 1})


def classes_of(number):
    return tuple(f"class {i}" for i in range(number))


def test_images_that_tie_are_counted_and_others_are_not(mesh):
    weights = np.eye(6, dtype=np.float32)
    weights[1] = weights[0]  # two classes that the model reads as one
    image = np.eye(6, dtype=np.float32)[[0, 0, 2, 3, 5, 5]]
    labels = np.array([0, 1, 2, 3, 4, 5], np.int32)  # the fifth is plainly wrong, without a tie
    result = classification.judge(image, weights, labels=labels, classes=classes_of(6), mesh=mesh)
    assert result.tied == 2 and (result.rank == 0).sum() == 3
    assert notes.of_result(result) == [
        "2 of 6 images score the same for their class and another, which counts as wrong"
    ]
    plain = image @ weights.T
    assert classification.judge_scores(plain, labels=labels, classes=classes_of(6)).tied == 2


def test_a_tie_of_wrong_classes_below_a_better_one_is_no_matter(mesh):
    weights = np.array([[1, 0, 0], [0.5, 0, 0], [0.5, 0, 0]], np.float32)
    image = np.array([[1, 0, 0]], np.float32)
    wrong = classification.judge(
        image, weights, labels=np.array([1]), classes=classes_of(3), mesh=mesh
    )
    assert wrong.tied == 0 and wrong.rank.tolist() == [2]


def test_scores_that_are_no_numbers_are_no_ties(mesh):
    image = np.full((4, 3), np.nan, np.float32)
    labels = np.zeros(4, np.int32)
    result = classification.judge(
        image, np.eye(3, dtype=np.float32), labels=labels, classes=classes_of(3), mesh=mesh
    )
    assert result.tied == 0 and result.not_finite == 4
    said = notes.of_result(result)
    assert said[0].startswith("2 of 3 classes have no images here: 'class 1', 'class 2'; ")
    assert said[1:] == ["4 images have scores that are no numbers; they count as wrong"]
    assert classification.judge_scores(image, labels=labels, classes=classes_of(3)).tied == 0


def test_retrievals_say_what_ties_and_what_is_no_number(mesh):
    image = np.eye(8, dtype=np.float32)
    text = image.copy()
    text[1] = text[0]  # images 0 and 1 have the same caption, which is nearer to the first
    image[1, :2] = 0.6, 0.8
    owners = np.arange(8, dtype=np.int32)
    found = retrieval.Retrieved.of(image, text, text_image=owners, mesh=mesh)
    assert found.ranks["image_to_text"].tolist() == [1, 1] + 6 * [0]
    assert found.ranks["text_to_image"].tolist() == [0, 1] + 6 * [0]
    assert found.notes == ["2 of 8 images find another as near as their own, which counts as wrong"]
    same = np.tile(image[:1], (8, 1))
    all_tie = retrieval.Retrieved.of(same, same, text_image=owners, mesh=mesh).notes
    assert [line.split(" find")[0] for line in all_tie] == ["8 of 8 images", "8 of 8 captions"]
    bad = np.full((8, 8), np.nan, np.float32)
    assert retrieval.Retrieved.of(bad, text, text_image=owners, mesh=mesh).notes == [
        "8 embeddings are no numbers; they count as wrong"
    ]
    assert retrieval.Retrieved.of(image, image, text_image=owners, mesh=mesh).notes == []


def test_captions_that_repeat_are_cut_or_are_many_are_counted():
    texts = ["a fox", "an owl", "a fox", "a fox", "a cat"]
    text_image = np.array([0, 0, 1, 1, 2], np.int32)
    cut = np.array([False, True, False, False, False])
    said = notes.of_captions(texts, text_image=text_image, cut=cut)
    assert said[0] == "1 of 5 captions are longer than the model reads"
    assert said[1].startswith("3 of 5 captions are those of other images too")
    one_image_only = notes.of_captions(texts, text_image=np.zeros(5, int), cut=cut & False)
    assert one_image_only == []
    many = np.repeat(np.arange(3), [5, 6, 7])
    said = notes.of_captions([f"{i}" for i in range(18)], text_image=many, cut=np.zeros(18, bool))
    assert said == [
        "2 of 3 images have more than 5 captions, and all count; published figures take the first 5"
    ]
