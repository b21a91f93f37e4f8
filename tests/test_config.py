"""The configs: the paper's tables, what may change within a run, and the settings' checks."""

import importlib.util
import math
import pathlib

import jax
import pytest

from clipjax import config, optim
from clipjax.build import program as build
from clipjax.common.exits import ConfigError
from clipjax.config import check as config_check
from clipjax.models import clip, zoo
from clipjax.parallel import mesh as meshes
from clipjax.training.step import MAX_LOG_SCALE

CONFIGS = sorted((pathlib.Path(__file__).parent.parent / "configs").glob("*.py"))


def load(name, *variant):
    path = next(path for path in CONFIGS if path.stem == name)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*variant)


@pytest.mark.parametrize("name", [path.stem for path in CONFIGS])
def test_every_config_is_complete_and_right(name):
    c = load(name)
    if c.data.source == "tfds" and not c.data.name:
        c.data.name = "some_set"
    config_check.check(c)


VARIANTS = [
    *((path.stem, ()) for path in CONFIGS if path.stem != "figure2"),
    *(
        ("figure2", (f"{way}{scale}",))
        for way in ("caption", "words", "bag_of_words", "transformer")
        for scale in ("", ",scenes")
    ),
]


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_every_config_runs_on_slices_of_any_size(name, variant):
    c = load(name, *variant)
    config_check.check(c, data=False)
    for chips in (1, 4, 8, 16, 32, 64, 256):
        shape = meshes.axis_sizes(c.mesh, devices=chips)
        assert math.prod(shape.values()) == chips
        if c.batch_size > 1000:  # those for pods, not for a laptop
            assert c.batch_size % (chips * c.micro_batches) == 0
        if c.mesh.data == -1:
            assert shape["fsdp"] == min(chips, 16)


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_every_rule_of_every_config_matches_a_parameter(name, variant):
    c = load(name, *variant)
    rules = (*c.optimizer.decay_factors, *c.optimizer.learning_rate_factors)
    if {pattern for pattern, _ in rules} <= set(optim.USUAL_PATTERNS):
        return
    init = clip.initialise(clip.from_dict(c.model.to_dict()))
    params = jax.eval_shape(init, jax.random.key(0))["params"]
    build.optimizer(c, params=params, schedule=lambda step: 0.1)


# Radford et al. 2021: name, learning rate, embedding, pixels (tables 19 and 20), blocks, width and
# heads of the image tower, width and heads of the text tower. A ResNet's width is that of its end.
PAPER = {
    "rn50": ("RN50", 5e-4, 1024, 224, (3, 4, 6, 3), 2048, 32, 512, 8),
    "rn101": ("RN101", 5e-4, 512, 224, (3, 4, 23, 3), 2048, 32, 512, 8),
    "rn50x4": ("RN50x4", 5e-4, 640, 288, (4, 6, 10, 6), 2560, 40, 640, 10),
    "rn50x16": ("RN50x16", 4e-4, 768, 384, (6, 8, 18, 8), 3072, 48, 768, 12),
    "rn50x64": ("RN50x64", 3.6e-4, 1024, 448, (3, 15, 36, 10), 4096, 64, 1024, 16),
    "vitb32": ("ViT-B/32", 5e-4, 512, 224, 12, 768, 12, 512, 8),
    "vitb16": ("ViT-B/16", 5e-4, 512, 224, 12, 768, 12, 512, 8),
    "vitl14": ("ViT-L/14", 4e-4, 768, 224, 24, 1024, 16, 768, 12),
    "vitl14_336": ("ViT-L/14@336px", 2e-5, 768, 336, 24, 1024, 16, 768, 12),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_recipe(name):
    c = load(name)
    model, rate, embed, size, layers, width, heads, text_width, text_heads = PAPER[name]
    resnet = model.startswith("RN")
    assert c.model.name == model
    assert c.optimizer.learning_rate == rate
    vision, text = c.model.vision, c.model.text
    assert vision.kind == ("resnet" if resnet else "vit")
    assert (c.model.embed_dim, vision.image_size, vision.layers) == (embed, size, layers)
    features = 32 * vision.width if resnet else vision.width
    assert (features, features // vision.head_width) == (width, heads)
    assert (text.width, text.heads, text.layers) == (text_width, text_heads, 12)
    # Table 18.
    assert (text.vocab_size, text.context_length) == (49_408, 77)
    assert c.batch_size == 32_768
    optimizer = c.optimizer
    adam = (0.9, 0.999, 1e-8) if resnet else (0.9, 0.98, 1e-6)
    assert optimizer.name == "adamw"
    assert (optimizer.beta1, optimizer.beta2, optimizer.epsilon) == adam
    assert optimizer.weight_decay == 0.2
    horizon = build.horizon(c, epoch_examples=400_000_000)
    epochs = 1 if name == "vitl14_336" else 32
    assert horizon.total == round(epochs * 400_000_000 / 32_768) and horizon.warmup == 2000
    assert c.schedule.name == "cosine"
    assert c.loss.name.startswith("softmax_")
    assert math.exp(MAX_LOG_SCALE) == pytest.approx(100)


def test_every_setting_is_named_operational_or_defines_the_run():
    flat = config.flatten(config.defaults())
    operational = {key for key in flat if config.is_operational(key)}
    for name in config.OPERATIONAL:
        assert "*" in name or any(
            key == name or key.startswith(f"{name}.") for key in operational | {"evals"}
        )
    defining = set(flat) - operational
    for key in ("seed", "batch_size", "total", "loss.name", "data.split", "optimizer.beta1"):
        assert key in defining
    for key in ("log_every", "mesh.fsdp", "data.num_workers", "model.vision.remat"):
        assert key in operational


def test_a_setting_that_an_older_clipjax_did_not_know_is_no_change_at_its_default():
    new = config.flatten(config.defaults())
    old = {key: value for key, value in new.items() if key != "model.vision.activation"}
    assert config.changed(old, new) == {}
    new["model.vision.activation"] = "gelu"
    assert config.changed(old, new) == {"model.vision.activation": ("", "gelu")}


def test_changes_compare_lists_and_tuples_alike():
    c = config.defaults()
    old = config.flatten({**c.to_dict(), "sharding_rules": []})
    assert config.changed(old, config.flatten(c)) == {}
    c.seed = 5
    c.log_every = "7 steps"
    assert config.changed(old, config.flatten(c)) == {"seed": (0, 5)}


def failing(**changes):
    c = config.defaults()
    c.data.source = "scenes"
    with c.unlocked():
        for key, value in changes.items():
            c.update_from_flattened_dict({key.replace("__", "."): value})
    with pytest.raises(ConfigError) as raised:
        config_check.check(c)
    return str(raised.value)


def test_checks_name_the_key_and_the_remedy():
    assert "config.mesh" in failing(mesh__data=-1)
    assert 'did you mean "cosine"' in failing(schedule__name="cosin")
    assert "config.model.dtype" in failing(model__dtype="float8")
    assert "config.data.source" in failing(data__source="tfd")
    assert "config.checkpoint.keep_best.metric" in failing(
        checkpoint__keep_best__metric="eval/none/loss"
    )
    c = config.defaults()
    c.data.source = "scenes"
    c.evals.held_out = config.evaluator("retrieval")
    c.checkpoint.keep_best.metric = "eval/held_out/image_to_text_recal_at_1"
    with pytest.raises(ConfigError, match='did you mean "image_to_text_recall_at_1"'):
        config_check.check(c)
    assert "config.model.vision.remat" in failing(model__vision__remat="all")
    assert "config.log_every" in failing(log_every="0 steps")


def test_mixtures_are_checked_part_by_part():
    def mixed(**parts):
        c = config.defaults()
        with c.unlocked():
            c.data.mixture.update(parts)
        return c

    web = config.part(0.7, source="tar", path="/web", text_key="new,txt", text_weights=(3, 1))
    config_check.check(mixed(web=web, demo=config.part(1, source="scenes")))
    both = mixed(web=web)
    both.data.keep = "a.keep"
    with pytest.raises(ConfigError, match=r"config.data.keep=a.keep: has no effect"):
        config_check.check(both)
    keys = config.flatten(mixed(web=web))
    assert config.is_operational("data.mixture.web.path") and "data.mixture.web.path" in keys
    assert not config.is_operational("data.mixture.web.weight")
    for told, part in {
        "weight=0.0: must be positive": config.part(0, source="tar", path="/x"),
        "source=tar: set its path": config.part(1, source="tar"),
        'source: "tarr" is unknown': config.part(1, source="tarr", path="/x"),
        "order=window: needs a source of shards": config.part(1, source="scenes", order="window"),
        "needs one chance for each of the 2 fields": config.part(
            1, source="tar", path="/x", text_key="a,b", text_weights=(1.0,)
        ),
    }.items():
        with pytest.raises(ConfigError) as raised:
            config_check.check(mixed(web=part))
        assert "config.data.mixture.web." in str(raised.value) and told in str(raised.value)


def test_zoo_names_are_the_released_ones():
    assert set(zoo.MODELS) >= {"ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px"}
