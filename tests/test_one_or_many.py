"""One where several are meant: what the library makes of every kind of argument for a list.

Each method × each kind of value is either a result of the right length, equal to that of the same
values in a list, or an error; never a result about letters, bytes or rows of pixels.
"""

import dataclasses
import io
import itertools

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import clipjax
from clipjax import config, evaluate
from clipjax.common import exits, lists
from clipjax.common.exits import ConfigError
from clipjax.evals import prompts, suites
from tests import tiny

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 20, 30, 3), dtype=np.uint8)
TEXTS = ["a fox", "a pig", "a bear"]
REFUSED = "refused"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "one"
    assert tiny.run(tiny.tiny(total="2 steps"), workdir) == exits.DONE
    return clipjax.load(workdir)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for i, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return [folder / f"{i}.png" for i in range(len(PIXELS))]


def of_objects(values):
    array = np.empty(len(values), object)
    array[:] = values
    return array


IMAGES = {  # name → (value of the files, which pictures it means, or REFUSED)
    "a path": (lambda f: f[1], [1]),
    "a path as text": (lambda f: str(f[1]), [1]),
    "bytes": (lambda f: f[1].read_bytes(), [1]),
    "a picture": (lambda f: Image.open(f[1]), [1]),
    "an array [H, W, 3]": (lambda f: PIXELS[1], [1]),
    "an array [H, W, 4]": (lambda f: np.dstack([PIXELS[1], np.full((20, 30), 255, np.uint8)]), [1]),
    "a jax array": (lambda f: jnp.asarray(PIXELS[1]), [1]),
    "a torch tensor": (lambda f: pytest.importorskip("torch").from_numpy(PIXELS[1]), [1]),
    "a grey array [H, W]": (lambda f: PIXELS[1][..., 0], 1),
    "a grey array [H, W, 1]": (lambda f: PIXELS[1][..., :1], 1),
    "a grey picture": (lambda f: Image.open(f[1]).convert("L"), 1),
    "a batch [N, H, W, 3]": (lambda f: PIXELS, [0, 1, 2, 3, 4]),
    "a batch of one": (lambda f: PIXELS[1:2], [1]),
    "a jax batch": (lambda f: jnp.asarray(PIXELS[:2]), [0, 1]),
    "an empty batch": (lambda f: PIXELS[:0], []),
    "a list of paths": (lambda f: f[:3], [0, 1, 2]),
    "a list of one": (lambda f: f[1:2], [1]),
    "a tuple of texts": (lambda f: tuple(map(str, f)), [0, 1, 2, 3, 4]),
    "a list of everything": (
        lambda f: [f[0], str(f[1]), f[2].read_bytes(), Image.open(f[3]), PIXELS[4]],
        [0, 1, 2, 3, 4],
    ),
    "a list of arrays": (lambda f: list(PIXELS), [0, 1, 2, 3, 4]),
    "a generator": (lambda f: (path for path in f), [0, 1, 2, 3, 4]),
    "a map": (lambda f: map(Image.open, f), [0, 1, 2, 3, 4]),
    "an array of paths": (lambda f: np.array([str(path) for path in f]), [0, 1, 2, 3, 4]),
    "an array of objects": (lambda f: of_objects(list(PIXELS)), [0, 1, 2, 3, 4]),
    "a pandas column": (lambda f: pd.Series([str(path) for path in f]), [0, 1, 2, 3, 4]),
    "an empty list": (lambda f: [], []),
    "an empty tuple": (lambda f: (), []),
    "an empty array": (lambda f: np.array([]), []),
    "an empty generator": (lambda f: iter(()), []),
    "None": (lambda f: None, REFUSED),
    "a number": (lambda f: 3, REFUSED),
    "a dictionary": (lambda f: {"a": f[0], "b": f[1]}, REFUSED),
    "a set": (lambda f: set(f), REFUSED),
    "a list with None": (lambda f: [f[0], None], REFUSED),
    "a list of lists": (lambda f: [f[:2], f[2:]], REFUSED),
    "nested numbers": (lambda f: PIXELS[1].tolist(), REFUSED),
    "an open file": (lambda f: io.BytesIO(f[1].read_bytes()), REFUSED),
    "a float array": (lambda f: PIXELS[1] / 255, REFUSED),
    "a float batch": (lambda f: PIXELS.astype(np.float32), REFUSED),
    "a signed array": (lambda f: PIXELS[1].astype(np.int64), REFUSED),
    "channels first": (lambda f: PIXELS[1].transpose(2, 0, 1), REFUSED),
    "a batch of grey": (lambda f: PIXELS[..., 0], REFUSED),
    "a batch of batches": (lambda f: PIXELS[None], REFUSED),
    "an empty image": (lambda f: PIXELS[1][:0], REFUSED),
    "a row of numbers": (lambda f: PIXELS[1, 0, 0], REFUSED),
    "a frame of data": (lambda f: pd.DataFrame({"image": map(str, f)}), REFUSED),
    "a path of an array": (lambda f: np.array(str(f[1])), REFUSED),
    "damaged bytes": (lambda f: b"no image", REFUSED),
}
WORDS = {
    "a text": (lambda: "a fox", ["a fox"]),
    "bytes": (lambda: b"a fox", ["a fox"]),
    "NumPy's text": (lambda: np.str_("a fox"), ["a fox"]),
    "a list": (lambda: TEXTS, TEXTS),
    "a list of one": (lambda: ["a fox"], ["a fox"]),
    "a tuple": (lambda: tuple(TEXTS), TEXTS),
    "an array": (lambda: np.array(TEXTS), TEXTS),
    "an array of objects": (lambda: of_objects(TEXTS), TEXTS),
    "a pandas column": (lambda: pd.Series(TEXTS), TEXTS),
    "a generator": (lambda: (text for text in TEXTS), TEXTS),
    "the keys of a dictionary, asked for": (lambda: list({"a fox": 1}), ["a fox"]),
    "an empty list": (list, []),
    "an empty array": (lambda: np.array([]), []),
    "None": (lambda: None, REFUSED),
    "a number": (lambda: 3, REFUSED),
    "a dictionary": (lambda: dict.fromkeys(TEXTS), REFUSED),
    "a set": (lambda: set(TEXTS), REFUSED),
    "a list with None": (lambda: ["a fox", None], REFUSED),
    "a list with a missing value": (lambda: pd.Series(["a fox", np.nan]), REFUSED),
    "a list of numbers": (lambda: [1, 2], REFUSED),
    "a list of lists": (lambda: [TEXTS, TEXTS], REFUSED),
    "a table of texts": (lambda: np.array([TEXTS, TEXTS]), REFUSED),
    "a frame of data": (lambda: pd.DataFrame({"text": TEXTS}), REFUSED),
    "a text in no dimension": (lambda: np.array("a fox"), REFUSED),
    "bytes that are no text": (lambda: [b"\xff\xfe"], REFUSED),
}


def rows(call, value):
    """What a method gives; REFUSED for an error that says on one line what was wrong."""
    try:
        return call(value)
    except (ValueError, ConfigError) as error:
        assert str(error) and "\n" not in str(error)
        return REFUSED


def compare(found, expected, reference):
    """`reference` of the same values in a list; a number stands for so many rows."""
    if isinstance(expected, str) or isinstance(found, str):
        assert isinstance(found, str) and found == expected
    elif isinstance(expected, int):
        assert len(found) == expected
    else:
        assert found.shape == reference.shape and len(found) == len(expected)
        np.testing.assert_allclose(found, reference, atol=1e-5)


@pytest.mark.parametrize("name", IMAGES)
def test_images(model, files, name):
    value, expected = IMAGES[name]
    listed = isinstance(expected, list)
    reference = model.encode_image([files[i] for i in expected]) if listed else None
    compare(rows(model.encode_image, value(files)), expected, reference)

    def chosen(images):
        return model.zero_shot(images, TEXTS, templates="{}")

    reference = chosen([files[i] for i in expected]) if listed else None
    compare(rows(chosen, value(files)), expected, reference)


@pytest.mark.parametrize("name", WORDS)
def test_texts_labels_and_templates(model, files, name):
    value, expected = WORDS[name]
    reference = model.encode_text(expected) if expected != REFUSED else None
    compare(rows(model.encode_text, value()), expected, reference)

    def labelled(labels):
        return model.zero_shot(files[:2], labels).T

    needed = expected or REFUSED  # no label: no probabilities
    reference = labelled(expected) if needed != REFUSED else None
    compare(rows(labelled, value()), needed, reference)

    def made(templates):
        return model.zero_shot(files[:2], TEXTS, templates=templates)

    with_place = expected if needed == REFUSED else [f"{text} {{}}" for text in expected]
    given = value()
    if needed != REFUSED:  # the same kind of value, of texts with a place for the name
        given = with_place[0] if name in ("a text", "NumPy's text") else with_place
        kinds = {"an array": np.array, "an array of objects": of_objects, "a tuple": tuple}
        kinds |= {"a pandas column": pd.Series, "a generator": iter}
        given = with_place[0].encode() if name == "bytes" else kinds.get(name, lambda x: x)(given)
    found = rows(lambda templates: made(templates), given)
    if needed == REFUSED:
        assert isinstance(found, str)
    else:
        np.testing.assert_allclose(found, made(with_place), atol=1e-6)


def test_one_label_and_one_image_are_certain(model, files):
    assert model.zero_shot(files[0], "a fox").tolist() == [[1.0]]
    assert model.zero_shot([], TEXTS).shape == (0, 3)


def test_a_wrong_image_among_many_is_named(model, files, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"bad\.png: "):
        model.encode_image([files[0], tmp_path / "bad.png"])
    with pytest.raises(ValueError, match=r"texts\[1\]: float nan is no text"):
        model.encode_text(["a fox", float("nan")])
    with pytest.raises(ValueError, match="labels: give at least one"):
        model.zero_shot(files[0], [])
    with pytest.raises(ConfigError, match="templates: give at least one"):
        model.zero_shot(files[0], TEXTS, templates=())


def test_a_template_alone_is_one_in_a_config_too():
    given = config.evaluator("zero_shot", templates="a photo of {}").templates
    assert given == ("a photo of {}",)
    assert prompts.check_templates("a photo of {}", where="templates") == given
    table = prompts.Table({"a": ("fox",), "b": ("pig",)})
    made = prompts.make(("a", "b"), table=table, templates=given, where="config.evals.x")
    assert made.texts()[0] == ["a photo of fox", "a photo of pig"]


NAMES = {
    "a name": ("retrieval", ("retrieval",)),
    "a list": (["zero_shot", "retrieval"], ("zero_shot", "retrieval")),
    "a tuple": (("zero_shot",), ("zero_shot",)),
    "an array": (np.array(["zero_shot"]), ("zero_shot",)),
    "a generator": (None, ("zero_shot", "retrieval")),
    "nothing": ((), ()),
    "None": (REFUSED, None),
    "a set": (REFUSED, {"zero_shot"}),
    "a dictionary": (REFUSED, {"zero_shot": 1}),
    "a number": (REFUSED, 3),
    "a list of lists": (REFUSED, [["zero_shot"]]),
    "an unknown name": (REFUSED, "zeroshot"),
}
TAKERS = {
    "own": lambda run: suites.own("x", path="d", run=run).run,
    "get": lambda run: suites.get("pets", run=run).run,
    "Entry": lambda run: suites.Entry("x", "x", run=run).run,
    "replaced": lambda run: dataclasses.replace(suites.get("pets"), run=run).run,
    "Suite": lambda run: suites.Suite("s", (suites.get("pets"),), run=run).run,
}


@pytest.mark.parametrize(("taker", "name"), list(itertools.product(TAKERS, NAMES)))
def test_protocols_of_sets_and_suites(taker, name):
    value, expected = NAMES[name]
    if isinstance(value, str) and value == REFUSED:
        with pytest.raises(ConfigError):
            TAKERS[taker](expected)
        return
    given = (text for text in expected) if name == "a generator" else value
    assert TAKERS[taker](given) == expected


def test_a_set_alone_is_a_suite_of_one():
    (entry,) = suites.Suite("s", suites.get("pets")).entries
    assert entry.id == "pets"
    assert len(suites.Suite("s", [suites.get("pets"), suites.get("cars")]).entries) == 2


def test_protocols_as_one_name_are_checked_before_anything_is_loaded(tmp_path):
    (tmp_path / "s.py").write_text(
        "from clipjax.evals import suites\n"
        "def get_suite(): return suites.Suite('s', suites.own('x', path='d'))\n"
    )
    for wrong in ("zeroshot", ["zero_shot", "zeroshot"], None):
        with pytest.raises(ConfigError, match="--protocols"):
            evaluate.run("", weights="x", suite=str(tmp_path / "s.py"), only=wrong)


def test_labels_as_one_text_are_one_label(tmp_path):
    with pytest.raises(ConfigError, match='--labels="a fox": give two or more'):
        evaluate.run(str(tmp_path), image=__file__, labels="a fox")


def test_what_is_a_list_is_decided_in_one_place():
    assert lists.texts("abc", what="x") == ["abc"] == lists.texts(iter(["abc"]), what="x")
    with pytest.raises(ValueError, match=r"x: dict .*is no text and no list of texts"):
        lists.texts({"abc": 1}, what="x")
