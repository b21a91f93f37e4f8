"""The models that Figure 2 of the paper compares CLIP with: what they compute, and their runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from clipjax.build import model as build_model
from clipjax.common import exits
from clipjax.evals import classification
from clipjax.evals.protocols import likelihood
from clipjax.models import clip, flops
from clipjax.models.pixels import normalize_pixels
from clipjax.training import objectives
from tests import tiny

CONTEXT, VOCABULARY, WIDTH = 7, 20, 8
START, END = 18, 19
KINDS = {
    "bag_of_words": {"width": WIDTH},
    "word_prediction": {},
    "captioning": {"width": WIDTH, "heads": 2, "layers": 2, "prefix": 4, "mlp_ratio": 4.0},
}


def model(kind, **changes):
    """The nested dict of a small model with such a text tower."""
    settings = tiny.tiny().model.to_dict()
    text = {"kind": kind, "context_length": CONTEXT, "vocab_size": VOCABULARY, **KINDS[kind]}
    return {**settings, "text": text, **changes}


def made(kind, seed=0):
    """(module, variables, image uint8 [3, 32, 32, 3])."""
    module = clip.from_dict(model(kind))
    variables = clip.initialise(module)(jax.random.key(seed))
    image = np.random.default_rng(seed).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    return module, variables, image


def padded(*words):
    return np.array([START, *words, END] + [0] * (CONTEXT - 2 - len(words)), np.int32)


def test_a_bag_of_words_has_no_order_and_no_padding():
    module, variables, _ = made("bag_of_words")
    texts = np.stack([padded(3, 5, 5), padded(5, 3, 5), padded(3, 5)])
    one, other, fewer = module.apply(variables, texts, method="encode_text")
    np.testing.assert_allclose(one, other, atol=1e-6)
    assert np.abs(one - fewer).max() > 1e-3, "the mean weighs a word by how often it occurs"
    noise = np.where(np.arange(CONTEXT) > 3, 7, texts[2])  # behind the end of text
    noisy = module.apply(variables, noise[None], method="encode_text")[0]
    np.testing.assert_allclose(noisy, fewer, atol=1e-6)


def test_predicted_words_are_drawn_alone_from_one_softmax():
    module, variables, image = made("word_prediction")
    words = [(3, 5, 5), (4,), ()]
    texts = np.stack([padded(*each) for each in words])
    found = module.apply(variables, image, texts, method="embed")
    bound = module.bind(variables)
    pixels = normalize_pixels(image, bound.config)
    logits = np.asarray(bound.vision(pixels), np.float64) @ np.asarray(
        variables["params"]["text"]["vocabulary"]["kernel"], np.float64
    )
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    wanted = [sum(logs[i, word] for word in each) for i, each in enumerate(words)]
    np.testing.assert_allclose(found["log_likelihood"], wanted, rtol=1e-5)
    np.testing.assert_array_equal(found["predicted"], [3, 1, 0])


def test_a_caption_is_predicted_from_the_image_and_what_stands_before():
    module, variables, image = made("captioning")
    text = padded(3, 5, 6)[None]

    def total(image, text):
        return float(module.apply(variables, image, text, method="embed")["log_likelihood"][0])

    assert total(image[:1], text) != pytest.approx(total(image[1:2], text), abs=1e-4)
    # A sum of conditional probabilities: those of all texts of one length add up to one.
    short = [np.array([START, word, END, 0, 0, 0, 0], np.int32) for word in range(VOCABULARY - 1)]
    first = module.apply(variables, np.repeat(image[:1], len(short), 0), np.stack(short),
                         method="embed")  # fmt: skip
    one_token = np.array([[START, END, 0, 0, 0, 0, 0]], np.int32)
    ends_at_once = np.exp(total(image[:1], one_token))
    # p(word then end) <= p(word), and all first tokens have probability 1
    assert float(jnp.exp(first["log_likelihood"]).sum()) + ends_at_once < 1
    np.testing.assert_array_equal(first["predicted"], 2)
    noise = np.where(np.arange(CONTEXT) > 4, 7, text)
    assert total(image[:1], noise) == total(image[:1], text), "nothing behind the end counts"


@pytest.mark.parametrize("kind", ["word_prediction", "captioning"])
def test_scores_are_what_embed_says_a_token(kind):
    module, variables, image = made(kind)
    texts = np.stack([padded(3), padded(5, 6, 2), padded(9, 9), padded(1, 2)])
    scores = module.apply(variables, image, texts, method="scores")
    assert scores.shape == (len(image), len(texts))
    for column, text in enumerate(texts):
        found = module.apply(variables, image, np.stack([text] * len(image)), method="embed")
        wanted = found["log_likelihood"] / found["predicted"]
        np.testing.assert_allclose(scores[:, column], wanted, rtol=2e-5)


def test_the_objective_weighs_tokens_alike():
    outputs = {"log_likelihood": jnp.array([-6.0, -1.0]), "predicted": jnp.array([3.0, 1.0])}
    loss, metrics = objectives.likelihood(outputs, {}, mesh=None, batch_axes=())
    assert float(loss) == pytest.approx(7 / 4)
    assert float(metrics["predicted_tokens"]) == 2
    nothing = {"log_likelihood": jnp.zeros(2), "predicted": jnp.zeros(2)}
    assert float(objectives.likelihood(nothing, {}, mesh=None, batch_axes=())[0]) == 0


def test_classes_are_judged_by_the_mean_of_their_prompts():
    scores = np.array([[-1.0, -3.0, -2.5], [-4.0, -1.0, -1.5], [np.nan, -1.0, -2.0]])
    classes = likelihood.of_classes(scores, owners=np.array([0, 0, 1]))
    np.testing.assert_allclose(classes[:2], [[-2.0, -2.5], [-2.5, -1.5]])
    result = classification.judge_scores(classes, labels=np.array([0, 0, 1]), classes=("a", "b"))
    np.testing.assert_array_equal(result.rank, [0, 1, 1])
    assert result.chosen[0] == 0 and result.chosen[1] == 1
    assert result.not_finite == 1


def config_of(kind, **changes):
    c = tiny.tiny(**changes)
    given = {"context_length": c.model.text.context_length, "vocab_size": c.model.text.vocab_size}
    c.model.text = ConfigDict({"kind": kind, **given, **KINDS[kind]})
    if kind != "bag_of_words":
        c.loss.name = "likelihood"
    return c


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(k, marks=pytest.mark.long if k == "captioning" else pytest.mark.slow)
        for k in KINDS
    ],
)
def test_a_run_trains_and_evaluates_whatever_its_micro_batches(kind, tmp_path):
    from clipjax import config

    c = config_of(kind, total="4 steps", micro_batches=2)
    measure = "zero_shot" if kind == "bag_of_words" else "likelihood"
    c.evals.objects = config.evaluator(measure, every="4 steps", source="objects", max_examples=48)
    assert tiny.run(c, tmp_path) == exits.DONE
    losses = [line["train/loss"] for _, line in sorted(tiny.values(tmp_path).items())]
    assert len(losses) == 4 and np.isfinite(losses).all()
    found = [line for line in tiny.lines(tmp_path) if "eval/objects/top1_accuracy" in line]
    assert [line["step"] for line in found] == [4]
    # micro-batches change nothing, up to rounding
    whole = config_of(kind, total="4 steps")
    assert tiny.run(whole, tmp_path / "whole") == exits.DONE
    again = [line["train/loss"] for _, line in sorted(tiny.values(tmp_path / "whole").items())]
    np.testing.assert_allclose(losses, again, rtol=2e-4)


def test_the_loss_and_the_evaluators_must_fit_the_model(tmp_path, capsys):
    from clipjax import config

    contrast, words, scored = map(config_of, ("captioning", "bag_of_words", "word_prediction"))
    contrast.loss.name = "softmax_gather"
    words.loss.name = "likelihood"
    scored.evals.pairs = config.evaluator("retrieval")
    for c, told in (
        (contrast, "model.text.kind=captioning needs likelihood"),
        (words, "config.loss.name=likelihood"),
        (scored, "cannot measure model.text.kind=word_prediction"),
    ):
        assert tiny.run(c, tmp_path) == exits.BAD_CONFIG
        assert told in capsys.readouterr().out


@pytest.mark.parametrize("kind", KINDS)
def test_flops_are_those_of_the_matrix_products(kind):
    settings = model(kind)
    text = settings["text"]
    params = jax.eval_shape(clip.initialise(clip.from_dict(settings)), jax.random.key(0))["params"]
    leaves = [(jax.tree_util.keystr(path), x) for path, x in jax.tree.leaves_with_path(params)]
    matrices = {n: x.size for n, x in leaves if "kernel" in n and "['text']" in n}
    tokens = {"captioning": 4 + CONTEXT - 1}.get(kind, 1)
    once = sum(size for name, size in matrices.items() if "prefix" in name)
    each = sum(size for name, size in matrices.items() if "block" in name)
    last = sum(s for n, s in matrices.items() if "prefix" not in n and "block" not in n)
    predicted = CONTEXT - 1 if kind == "captioning" else 1
    scores = 4.0 * tokens**2 * WIDTH * text.get("layers", 0)
    assert flops.text_flops(settings) == 2.0 * (once + tokens * each + predicted * last) + scores
    assert build_model.training_flops_per_pair(config_of(kind)) > 0


@pytest.mark.parametrize("kind", ["captioning", "bag_of_words"])
def test_who_needs_another_model_is_told(kind, tmp_path, capsys):
    import clipjax
    from clipjax import convert
    from clipjax.common.exits import CleanExit, ConfigError

    assert tiny.run(config_of(kind, total="2 steps"), tmp_path / "run") == exits.DONE
    with pytest.raises(CleanExit, match=f"model.text.kind={kind}"):
        convert.convert(str(tmp_path / "run"), to="open_clip", output=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    if kind == "captioning":
        with pytest.raises(ConfigError, match="predicts captions"):
            clipjax.load(tmp_path / "run")
    else:
        assert clipjax.load(tmp_path / "run").encode_text(["a fox"]).shape == (1, 16)
