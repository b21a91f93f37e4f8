"""Every setting × values that others' configs hold: what is legal passes, all else is one line."""

import json
import math

import numpy as np
import pytest
from ml_collections import ConfigDict

from clipjax import config, evals
from clipjax.common.exits import ConfigError
from clipjax.config import check as config_check
from clipjax.config.ranges import SETTINGS, evaluator
from clipjax.evals import classification
from clipjax.evals.protocols import retrieval
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
    (1e30, {"optimizer.learning_rate"}),
    (10**30, {"optimizer.learning_rate"}),
    *((value, set()) for value in (-(10**30), math.nan, math.inf, -math.inf)),
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
                assert not names & legal_for or is_unread(told), f"{tried} is refused: {told}"
                assert f"config.{key.split('.')[0]}" in told and "\n" not in told, tried
            else:
                assert names & legal_for, f"{tried} passes"


def is_unread(told):
    """Whether a value is legal and would not be read beside the other settings."""
    return "has no effect" in told or "does not tell how to read it" in told


def test_how_many_combinations_those_are(capsys):
    settings = sum(len(settings_of(base)) for base in BASES)
    with capsys.disabled():
        print(f"\n{settings} settings × {len(VALUES)} values = {settings * len(VALUES):,}")
    assert settings >= 170 and len(VALUES) == 19


def plain(group):
    """The names of a group's settings, groups among them as dicts; of ranges or of a config."""
    return {
        key: plain(value) if isinstance(value, dict | ConfigDict) and key != "model" else None
        for key, value in group.items()
    }


def test_the_table_has_every_setting_and_no_other():
    defaults = plain(config.defaults()) | {"stages": {"*": plain(config.stage("1 steps"))}}
    defaults["data"]["mixture"] = {"*": plain(config.part(1))}
    defaults["evals"] = {"*": None}  # by its kind, below
    assert plain(SETTINGS) == defaults
    for kind in evals.KINDS:
        settings = config.evaluator(kind)
        assert set(evaluator(settings)) == set(settings)


def told(c) -> str:
    """The one line that a config is refused with."""
    with pytest.raises(ConfigError) as error:
        config_check.check(c)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_unknown_and_missing_settings_are_named():
    c = scenes()
    c.optimizer.lr = 1e-3  # a config file's ConfigDict takes any name
    assert 'config.optimizer.lr: no such setting (did you mean "optimizer.learning_rate"?)' in told(
        c
    )
    c = scenes()
    c.stages.small.image_sise = 64
    assert 'image_sise: no such setting (did you mean "stages.small.image_size"?)' in told(c)
    c = scenes()
    c.evals.loss.templates = ("a {}",)  # only evaluators that classify have them
    assert "config.evals.loss.templates: no such setting" in told(c)
    c = scenes()
    c.evals.mine = ConfigDict({"kind": "loss"})
    assert "config.evals.mine.every is missing" in told(c)
    for group in ("mesh", "evals", "stages", "data"):
        for value in (None, 3, "x", [1]):
            assert f"config.{group}=" in told(with_value(scenes(), group, value))
    c = scenes()
    c.model.vision = ConfigDict({"width": 64})
    assert "config.model.vision.image_size is missing" in told(c)


@pytest.mark.parametrize("setting", ["learning_rate_factors", "decay_factors"])
@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        ((("vision/(.*", 1.0), (".*", 1.0)), "[0][0]='vision/(.*': is no regular expression"),
        (((".*", -1.0),), "[0][1]=-1.0: must be at least 0"),
        (((".*", math.nan),), "[0][1]=nan: must be at least 0"),
        (((".*", 1.0), ("a", True)), "[1][1]=True: must be at least 0"),
        (((".*", 1.0, 2.0),), "[0]=('.*', 1.0, 2.0): must be a pair"),
        (((None, 1.0),), "[0][0]=None: is no regular expression"),
        ((".*", 1.0), "[0]='.*': must be a pair"),
        ((), "=(): must be a list of pairs"),
        (".*", "='.*': must be a list of pairs"),
    ],
)
def test_rules_are_read_before_any_data(setting, rules, problem):
    line = told(with_value(scenes(), f"optimizer.{setting}", rules))
    assert line.startswith(f"config.optimizer.{setting}{problem}")


def test_rules_of_sharding_are_read_before_any_data():
    for rule in ("fdsp", "shard(0, rows)", "shard(tensor)", "", "replicate,fsdp", 3):
        line = told(with_value(scenes(), "sharding_rules", ((".*", rule),)))
        assert line.startswith(f"config.sharding_rules[0][1]={rule!r}: must be")
    rules = [[".*/kernel", "shard(-1, tensor) + fsdp"], [".*", "replicate"]]
    config_check.check(with_value(scenes(), "sharding_rules", rules))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"warmup": "11 steps"}, "schedule.warmup=11 steps: is 11 steps, longer than the whole"),
        ({"cooldown": "99 steps"}, "schedule.cooldown=99 steps: is 99 steps, longer than"),
        (
            {"warmup": "6 steps", "cooldown": "80 examples"},
            "schedule.cooldown=80 examples: warm-up and cool-down, 6 and 5 steps, are together",
        ),
        ({"name": "cosine", "cooldown": "2 steps"}, "cosine ends at zero without one"),
        ({"timescale": "0 steps"}, "schedule.timescale=0 steps: must be positive"),
    ],
)
def test_warm_up_and_cool_down_fit_within_the_run(changes, problem):
    c = scenes()
    c.stages = ConfigDict()
    c.batch_size, c.total, c.schedule.name, c.schedule.warmup = (
        16,
        "10 steps",
        "constant",
        "1 steps",
    )
    config_check.check(c)
    c.schedule.update(changes)
    assert problem in told(c)


@pytest.mark.parametrize(
    ("metric", "problem"),
    [
        ("eval/retrieval/image_to_text_recal_at_1", 'did you mean "image_to_text_recall_at_1"'),
        ("eval/zero_shot", '"" is unknown; known: top1_accuracy, '),
        ("retrieval/text_to_image_recall_at_5", "is no metric of an evaluator"),
        ("evals/loss/loss", "is no metric of an evaluator"),
        ("eval/los/loss", "of config.evals: loss, retrieval, zero_shot"),
    ],
)
def test_the_best_is_by_a_metric_that_there_is(metric, problem):
    c = scenes()
    c.checkpoint.keep_best.metric = metric
    assert f"config.checkpoint.keep_best.metric={metric}: " in told(c) and problem in told(c)


def test_metrics_are_known_without_jax():
    images, classes = np.arange(3), 7
    assert set(retrieval.chance_of(images)) == set(evals.KINDS["retrieval"].metrics)
    assert set(classification.chance(classes)) == set(evals.KINDS["likelihood"].metrics)


def test_durations_in_epochs_wait_for_the_data():
    c = scenes()
    c.stages = ConfigDict()
    c.batch_size, c.total, c.schedule.name = 10, "2 epochs", "constant"
    c.schedule.warmup, c.schedule.cooldown = "12 steps", "1 epochs"
    config_check.check(c)
    config_check.check_durations(c, epoch_examples=120)
    with pytest.raises(ConfigError, match="12 and 10 steps, are together longer than the whole"):
        config_check.check_durations(c, epoch_examples=100)


def test_what_others_need_is_named():
    c = scenes()
    c.init.weights, c.init.towers = "runs/other", ()
    assert "config.init.towers=()" in told(c)
    c = scenes()
    c.stages, c.total, c.profile = ConfigDict(), "400M examples", "90000:90005"
    assert "config.profile=90000:90005: begins after the last step" in told(c)
    c.profile, c.total = "", "1_000_000_000G examples"
    assert "config.total=1_000_000_000G examples" in told(c)


@pytest.mark.parametrize("base", BASES)
def test_what_json_makes_of_a_config_is_the_same_config(base):
    make, _ = BASES[base]
    stored = json.loads(json.dumps(make().to_dict()), parse_float=_whole_if_it_is)
    config_check.check(ConfigDict(stored))
    assert not config.changed(config.flatten(stored), config.flatten(make()))


def _whole_if_it_is(text):
    return int(float(text)) if float(text).is_integer() else float(text)


@pytest.mark.parametrize("base", BASES)
def test_a_setting_that_may_be_a_fraction_takes_one_from_the_command_line(base):
    """Flags are read as the type of the default, and an int would refuse 3.7."""
    c = BASES[base][0]()
    for tower, kinds in model_config.TOWERS.items():
        for field in kinds[c.model[tower].kind].__dataclass_fields__.values():
            if field.type is float and field.name in c.model[tower]:
                assert isinstance(c.model[tower][field.name], float), f"{tower}.{field.name}"
    for key, value in config.flatten(c).items():
        allowed = SETTINGS
        for part in key.split("."):
            allowed = allowed.get(part) if isinstance(allowed, dict) else None
        if getattr(allowed, "kind", "").startswith("a number"):
            assert isinstance(value, float), key
