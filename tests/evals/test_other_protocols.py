"""Overlap, neighbours, places, frames, lexicons, folds: against SciPy and plain loops."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from clipjax.common.exits import DataError
from clipjax.curation import dedup
from clipjax.data.source import Source
from clipjax.evals import metrics, nearest, overlap, video_frames
from clipjax.evals.probe import folds
from clipjax.evals.protocols import geolocation, lexicon
from clipjax.parallel import mesh as meshes


@pytest.fixture(scope="module")
def mesh():
    return meshes.make_mesh({"data": 2, "fsdp": 4, "tensor": 1})


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("blocks", [(61,), (8, 40, 13), (1, 60)])
def test_nearest_equals_a_full_sort_whatever_the_blocks(mesh, blocks, monkeypatch):
    monkeypatch.setattr(nearest, "QUERIES", 16)
    rng = np.random.default_rng(0)
    queries, candidates = unit(rng.normal(size=(21, 6))), unit(rng.normal(size=(61, 6)))
    candidates[7] = candidates[40]  # a tie: the first wins
    queries[3] = np.nan
    search = nearest.Nearest(queries, count=3, mesh=mesh)
    for block in np.split(candidates, np.cumsum(blocks)[:-1]):
        search.add(block)
    scores = queries @ candidates.T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :3]
    real = np.arange(21) != 3
    np.testing.assert_array_equal(search.index[real], order[real])
    best = np.take_along_axis(scores, order, axis=1)
    np.testing.assert_allclose(search.scores[real], best[real], atol=1e-6)
    assert (search.index[3] == -1).all() and (search.scores[3] == -np.inf).all()


def test_overlap_finds_copies_edited_copies_and_near_embeddings(mesh):
    rng = np.random.default_rng(1)
    pictures = [rng.normal(size=(6, 6)).cumsum(0).cumsum(1) for _ in range(9)]

    def encoded(k, *, quality=95, side=64):
        low, high = pictures[k].min(), pictures[k].max()
        grey = Image.fromarray(np.uint8(255 * (pictures[k] - low) / (high - low)))
        data = io.BytesIO()
        grey.resize((side, side), Image.Resampling.BICUBIC).save(data, "JPEG", quality=quality)
        return data.getvalue()

    class Pictures(list, Source):
        name = "pictures"

        def key(self, index):
            return str(index)

    def source(*images):
        return Pictures({"image": image, "key": str(i)} for i, image in enumerate(images))

    training = source(*(encoded(k) for k in (4, 2, 7, 0)))
    mine = source(encoded(0), encoded(1), encoded(2, quality=60, side=80), encoded(3))
    hashes = [dedup.hashes(part, num_workers=0, show=False) for part in (mine, training)]
    file, look = overlap.by_hash(*hashes)
    assert file.tolist() == [3, -1, -1, -1] and look.tolist() == [3, -1, 1, -1]
    embed = unit(rng.normal(size=(4, 5)))
    theirs = unit(rng.normal(size=(4, 5)))
    theirs[2] = embed[3]
    index, cosine = overlap.by_embedding(embed, [theirs[:3], theirs[3:]], mesh=mesh)
    found = overlap.Neighbours(file, look, index, cosine)
    assert index[3] == 2 and found.overlapping(0.999).tolist() == [True, False, True, True]
    assert found.found_by(0.999) == {"file": 1, "look": 2, "embedding": 1, "any": 3}


def test_effect_of_the_overlap_equals_scipys_binomial_test():
    rng = np.random.default_rng(2)
    inside = rng.random(2000) < 0.1
    right = rng.random(2000) < np.where(inside, 0.8, 0.7)
    found = overlap.effect(right, inside)
    hits, n = int(right[inside].sum()), int(inside.sum())
    clean = right[~inside].mean()
    test = stats.binomtest(hits, n, clean, alternative="greater")
    assert found.p_value == pytest.approx(test.pvalue)
    interval = stats.binomtest(hits, n).proportion_ci(0.995, method="exact")
    assert found.overlap_interval == pytest.approx((interval.low, interval.high))
    assert found.change == pytest.approx(right.mean() - clean)
    assert found.change == pytest.approx(found.share.value * found.difference)
    assert found.change_interval[0] < found.change < found.change_interval[1]
    assert (found.all.n, found.clean.n, found.overlap.n) == (2000, 2000 - n, n)


def test_the_change_lies_in_its_interval_to_the_last_bit():
    """Where all that overlap are right, or none, the interval ends at it."""
    for n, inside, wrong in itertools.product((30, 101, 364), (1, 3, 27), (0, 1, 5)):
        for hit in (True, False):
            right = np.r_[np.full(inside, hit), np.zeros(wrong, bool), np.ones(n, bool)]
            found = overlap.effect(right, np.arange(len(right)) < inside)
            assert found.change_interval[0] <= found.change <= found.change_interval[1]


@pytest.mark.parametrize("inside", [False, True])
def test_no_overlap_and_nothing_else_have_no_effect(inside):
    found = overlap.effect(np.ones(9, bool), np.full(9, inside))
    assert found.change == 0 and found.p_value == 1 and found.share.value == inside


def test_places_are_the_nearest_references_and_distances_the_earths(mesh):
    paris, london, sydney = (48.8566, 2.3522), (51.5074, -0.1278), (-33.8688, 151.2093)
    apart = geolocation.distances_km(np.array([paris, paris, paris]), [london, sydney, paris])
    assert apart == pytest.approx([343.6, 16960, 0], rel=2e-3)
    rng = np.random.default_rng(3)
    references = unit(rng.normal(size=(20, 4)))
    degrees = np.stack([rng.uniform(-90, 90, 20), rng.uniform(-180, 180, 20)], axis=1)
    queries = references[[5, 0, 19]].copy()
    queries[1] = np.nan
    found = geolocation.places(
        queries, reference_embed=references, reference_degrees=degrees, mesh=mesh
    )
    np.testing.assert_array_equal(found[[0, 2]], degrees[[5, 19]])
    distances = geolocation.distances_km(found, degrees[[5, 0, 3]])
    shares = geolocation.shares_within(distances)
    assert distances[0] == 0 and np.isnan(distances[1])
    assert shares["within_1_km"].value == 1 / 3 and shares["within_1_km"].n == 3
    assert list(shares) == [f"within_{km}_km" for km in (1, 25, 200, 750, 2500)]


def test_places_are_read_by_image(tmp_path):
    file = tmp_path / "gps.csv"
    file.write_text("image,latitude,longitude\na.jpg,1.5,-2\nb.jpg,-90,180\nc.jpg,91,0\n")
    read = geolocation.read_degrees(file, keys=["b.jpg", "a.jpg"])
    assert read.tolist() == [[-90, 180], [1.5, -2]]
    with pytest.raises(DataError, match=r"no place for 1 image, such as d\.jpg"):
        geolocation.read_degrees(file, keys=["d.jpg"])
    with pytest.raises(DataError, match=r"c\.jpg is at latitude 91"):
        geolocation.read_degrees(file, keys=["c.jpg"])
    file.write_text("image,lat,lon\na,1,2\n")
    with pytest.raises(DataError, match="header image,latitude,longitude"):
        geolocation.read_degrees(file, keys=["a"])


def test_frames_of_a_video_belong_together_and_are_counted_not_spelled():
    keys = [f"run/v1/frame{k}.jpg" for k in (10, 9, 1, 2, 11)] + ["run/v2.jpg", "hop/v1/a.jpg"]
    found = video_frames.videos(keys)
    assert found.names == ("run/v1", "run/v2", "hop/v1")
    assert found.owner.tolist() == [0, 0, 0, 0, 0, 1, 2]
    assert [keys[i] for i in found.middle] == ["run/v1/frame9.jpg", "run/v2.jpg", "hop/v1/a.jpg"]


def test_predictions_are_averaged_as_probabilities():
    cosines = np.array([[0.9, 0.1], [0.2, 0.3], [0.2, 0.3], [np.nan, 0.0]])
    found = video_frames.mean_predictions(cosines, owner=[0, 0, 0, 1], count=2, logit_scale=10.0)
    odds = np.exp(10 * cosines[:3])
    np.testing.assert_allclose(found[0], (odds / odds.sum(axis=1, keepdims=True)).mean(axis=0))
    # two of three frames prefer the second class, but the first frame is surer
    assert found[0, 0] > found[0, 1] and np.isnan(found[1]).any()


def test_a_word_is_looked_for_in_its_own_list():
    words = ("cat", "dog", "exit", "open")
    word_embed = np.eye(4, dtype=np.float32)
    images = np.array([[0.9, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0]], np.float32)
    lists = (("Cat", "dog"), ("dog", "open"), ("exit", "cat"))
    found = lexicon.lexicon_accuracy(
        images, word_embed, words=words, truths=("cat", "DOG", "exit"), lexicons=lists
    )
    assert (found.value, found.n) == (2 / 3, 3)  # the second is a tie; "exit" is not the first's
    with pytest.raises(DataError, match='"sun" is not in its list'):
        lexicon.lexicon_accuracy(
            images[:1], word_embed, words=words, truths=["sun"], lexicons=lists[:1]
        )


def test_folds_and_splits_are_read_and_checked(tmp_path):
    file = tmp_path / "fold_indices.txt"
    made = [np.random.default_rng(k).permutation(5000)[:1000] for k in range(10)]
    file.write_text("\n".join(" ".join(map(str, fold)) for fold in made) + "\n")
    for fold, expected in zip(folds.stl10_folds(file), made, strict=True):
        np.testing.assert_array_equal(fold, expected)
    file.write_text(file.read_text().replace(" ", " 5000 ", 1))
    with pytest.raises(DataError, match="10 folds of 1000, not 10 lines"):
        folds.stl10_folds(file)
    (tmp_path / "trainlist02.txt").write_text("Run/v_Run_g01_c01.avi 1\nHop/v_Hop_g02_c01.avi 2\n")
    (tmp_path / "testlist02.txt").write_text("Run/v_Run_g03_c01.avi\n")
    videos = {"v_Run_g01_c01": 4, "v_Hop_g02_c01": 0, "v_Run_g03_c01": 2}
    train, test = folds.ucf101_split(tmp_path, 2, videos=videos)
    assert train.tolist() == [0, 4] and test.tolist() == [2]
    with pytest.raises(DataError, match="1 of its 2 videos are not in the data"):
        folds.ucf101_split(tmp_path, 2, videos={"v_Run_g01_c01": 4, "v_Run_g03_c01": 2})
    (tmp_path / "testlist02.txt").write_text("Run/v_Run_g01_c01.avi\n")
    with pytest.raises(DataError, match="trains on 1 of its test videos"):
        folds.ucf101_split(tmp_path, 2, videos=videos)


def test_a_mean_over_folds_is_no_surer_than_its_folds_agree():
    alike = [metrics.share(80, 100)] * 10
    spread = [metrics.share(k, 100) for k in (70, 90) * 5]
    one, two = folds.mean_over(alike), folds.mean_over(spread)
    assert one.value == two.value == 0.8 and one.n == 100
    assert one.low == pytest.approx(alike[0].low) and two.low < one.low < one.high < two.high
    t = stats.t.ppf(0.975, 9) * np.std([0.7, 0.9] * 5, ddof=1) / np.sqrt(10)
    below = np.mean([e.value - e.low for e in spread])
    assert 0.8 - two.low == pytest.approx(np.hypot(t, below))
    assert folds.mean_over(alike[:1]) == alike[0]
