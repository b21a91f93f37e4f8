"""Every setting × values that others' configs hold: what is legal passes, all else is one line."""

import math

import pytest
from ml_collections import ConfigDict

from clipjax import config, config_check
from clipjax.common.exits import ConfigError
from clipjax.models import config as model_config


def scenes():
    """A config with a stage and an evaluator of each kind that embeds."""
    c = config.defaults()
    c.data.source = "scenes"
    c.model.name = "custom"
    c.stages.small = config.stage("1M examples", image_size=192)
    for kind in ("loss", "retrieval", "zero_shot"):
        c.evals[kind] = config.evaluator(kind)
    return c


def mixed():
    c = config.defaults()
    c.data.mixture.web = config.part(2, source="tfds", name="pairs", path="/data")
    c.evals.own = config.evaluator("retrieval", source="scenes")
    return c


def with_vision(kind):
    c = scenes()
    c.stages = ConfigDict()
    vision = {"kind": kind, "image_size": 224, "width": 64, "layers": (3, 4, 6, 3)}
    c.model = config.model("custom", vision=vision)
    return c


def with_text(kind):
    c = config.defaults()
    c.data.source = "scenes"
    own = model_config.TOWERS["text"][kind]
    sizes = {"context_length": 77, "vocab_size": 600, "width": 64, "heads": 2, "layers": 2}
    known = {key: sizes[key] for key in sizes if key in own.__dataclass_fields__}
    c.model.name = "custom"
    c.model.text = ConfigDict(vars(own(**known)))
    if kind in ("word_prediction", "captioning"):
        c.loss.name = "likelihood"
        c.evals.likely = config.evaluator("likelihood")
    return c


BASES = {  # name → a config, and where its settings begin that no config before it has
    "contrastive": (scenes, ""),
    "mixture": (mixed, "data.mixture."),
    "resnet": (lambda: with_vision("resnet"), "model.vision."),
    "bag_of_words": (lambda: with_text("bag_of_words"), "model.text."),
    "word_prediction": (lambda: with_text("word_prediction"), "model.text."),
    "captioning": (lambda: with_text("captioning"), "model.text."),
    "likelihood": (lambda: with_text("captioning"), "evals."),
}


def of_records(*keys):
    return {f"{where}.{key}" for where in ("data", "data.mixture.*", "evals.*") for key in keys}


TEXTS = of_records("path", "name", "image_key", "text_key", "keep", "index") | {
    *("wandb", "compilation_cache", "init.weights", "tokenizer.path", "data.cache_dir"),
    "evals.*.classes",
}
LISTS = of_records("text_weights") | {
    *("sharding_rules", "optimizer.bfloat16_weights", "evals.*.templates", "init.towers"),
}
FLAGS = {
    *("init.resize_positions", "evals.*.permute_names", "model.logit_bias", "model.scan"),
    *(f"model.vision.{key}" for key in ("class_token", "ln_pre", "patch_bias", "projection")),
    *("model.text.causal", "model.text.projection_bias"),
}
ZEROS = {
    *("model.vision.layer_norm_epsilon", "model.text.layer_norm_epsilon"),
    *("seed", "patch_dropout", "ema_decay", "watchdog_seconds", "data.num_workers"),
    *("data.cache_gigabytes", "data.max_bad_fraction", "checkpoint.every_minutes"),
    *(f"optimizer.{key}" for key in ("weight_decay", "beta1", "beta2", "clip_norm")),
    *("optimizer.skip_spikes_above", "evals.*.batch_size", "evals.*.max_examples"),
    *(f"stages.*.{key}" for key in ("batch_size", "micro_batches", "patch_dropout")),
    *("stages.*.image_size", "stages.*.context_length"),
}
OWN = {f"model.{tower}.activation" for tower in ("vision", "text")}  # else the model's
OFF = OWN | {
    *("profile", "schedule.cooldown", "checkpoint.keep_every", "evals.*.source"),
    "checkpoint.keep_best.metric",
}
VALUES = [  # and the settings that may have them
    ("", TEXTS | OFF),
    ("nan", TEXTS | of_records("split")),
    ("two\nlines", TEXTS | of_records("split")),
    ("None", set()),
    (None, set()),
    ((), LISTS),
    ([], LISTS),
    ([1, 2], {"model.vision.layers of a resnet"}),
    ({"a": 1}, set()),
    (b"bytes", set()),
    (True, FLAGS),
    (-1, {"mesh.fsdp", "stages.*.patch_dropout"}),
    (0, ZEROS),
    *((value, set()) for value in (1e30, 10**30, -(10**30), math.nan, math.inf, -math.inf)),
]


def settings_of(base):
    make, start = BASES[base]
    return [key for key in config.flatten(make()) if key.startswith(start)]


def any_name(key):
    """The key with "*" for the name of a stage, an evaluator or a source."""
    parts = key.split(".")
    place = {"stages": 1, "evals": 1, "data": 2}.get(parts[0], 0)
    if place and (parts[0] != "data" or parts[1] == "mixture"):
        parts[place] = "*"
    return ".".join(parts)


def with_value(c, key, value):
    """The config with one setting changed, past what ConfigDict makes of types."""
    *groups, last = key.split(".")
    group = c
    for name in groups:
        group = group[name]
    group._fields[last] = value
    return c


@pytest.mark.parametrize("base", BASES)
def test_every_setting_with_every_value(base):
    make, _ = BASES[base]
    config_check.check(make())
    for key in settings_of(base):
        for value, legal_for in VALUES:
            tried, names = f"{key} = {value!r}", {any_name(key), f"{key} of a {base}"}
            try:
                config_check.check(with_value(make(), key, value))
            except ConfigError as error:
                told = str(error)
                assert not names & legal_for, f"{tried} is refused: {told}"
                assert f"config.{key.split('.')[0]}" in told and "\n" not in told, tried
            else:
                assert names & legal_for, f"{tried} passes"


def test_how_many_combinations_those_are(capsys):
    settings = sum(len(settings_of(base)) for base in BASES)
    with capsys.disabled():
        print(f"\n{settings} settings × {len(VALUES)} values = {settings * len(VALUES):,}")
    assert settings >= 170 and len(VALUES) == 19
