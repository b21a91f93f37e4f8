"""A setting is read, refused, or named at the start: a table over what each source, evaluator,
stage and mixture has, and over the settings that others make idle."""

import pytest

from clipjax import config
from clipjax.build import data as build_data
from clipjax.common.exits import ConfigError
from clipjax.config import check as config_check
from clipjax.config import evaluation_data, flatten, stages
from clipjax.config import unused as unused_settings
from clipjax.data import sources
from tests import tiny

PLACES = {"tar": "a/{0..2}.tar", "parquet": "a.parquet", "tfrecord": "a.tfrecord"}
PLACES |= {"table": "a.csv", "csv": "a.csv"}
PLACES |= {"folder": "photos", "tfds": "prepared"}
OTHER = {  # settings of `config.records` → a value that is not the default
    "path": "elsewhere",
    "name": "some_set",
    "split": "validation",
    "image_key": "picture",
    "text_key": "words",
    "text_weights": (1.0, 3.0),
    "order": "window",
    "window": 3,
    "keep": "some.keep",
    "index": "some.index",
}


def noticed(c) -> str:
    """What is said of a config before it runs: the error, or the lines of its summary."""
    try:
        config_check.check(c)
    except ConfigError as error:
        return str(error)
    return "\n".join(unused_settings.ignored(c))


def trained_on(source, **changes):
    c = config.defaults()
    c.data.source, c.data.path = source, PLACES.get(source, "")
    c.data.update(changes)
    return c


def reads(source, key):
    return key in ("keep", *sources.SOURCES[source].reads)


def fitting(source, key):
    """The setting's other value, with what gives it a sense where the source reads it."""
    changes = {key: OTHER[key]}
    if reads(source, key):
        if key == "text_weights":
            changes["text_key"] = "words,more"
        if key == "window":
            changes["order"] = "window"
    return changes


CASES = [(source, key) for source in sources.SOURCES for key in OTHER]


@pytest.mark.parametrize(("source", "key"), CASES)
def test_every_setting_of_every_source(source, key):
    """Of training data and of a part of a mixture."""
    c = trained_on(source, **fitting(source, key))
    mixed = config.defaults()
    part = {"source": source, "path": PLACES.get(source, "")} | fitting(source, key)
    mixed.data.mixture.web = config.part(1.0, **part)
    for told, where in ((noticed(c), "data"), (noticed(mixed), "data.mixture.web")):
        named = f"config.{where}.{key}=" in told
        assert named != reads(source, key), told
        if key in ("path", "index") and named:
            assert told.endswith(f"leave it out, or set config.{where}.source to one that does")


OF_EVALUATORS = [key for key in OTHER if key in flatten(config.evaluator("loss"))]


@pytest.mark.parametrize(
    ("source", "key"), [(s, k) for s in sources.SOURCES for k in OF_EVALUATORS]
)
@pytest.mark.parametrize("own", [True, False], ids=["own", "training's"])
def test_every_setting_of_an_evaluators_data(source, key, own):
    """With a source of its own or the training run's: refused, or among what is opened."""
    c = trained_on(source)
    if source == "tfds":
        c.data.name = "some_other"
    c.evals.x = config.evaluator("retrieval", **{key: OTHER[key]})
    if own:
        c.evals.x.source = source
        c.evals.x.path = c.evals.x.path or PLACES.get(source, "")
    told = noticed(c)
    if told:
        assert told.startswith(f"config.evals.x.{key}={OTHER[key]}: ")
        assert not reads(source, key) or (key, own) == ("name", False)
    else:
        data = evaluation_data.settings(c, "x")
        assert (data.source, data[key]) == (source, OTHER[key])


@pytest.mark.parametrize("kind", ["loss", "retrieval", "zero_shot"])
@pytest.mark.parametrize(
    ("key", "value"),
    [("classes", "digits"), ("templates", ("a {}",)), ("permute_names", True), ("keep", "a.keep")],
)
def test_settings_of_other_kinds_are_refused(kind, key, value):
    c = trained_on("digits")
    c.evals.x = config.evaluator(kind, **{key: value})
    is_read = key == "keep" or kind == "zero_shot"
    assert bool(noticed(c)) != is_read
    changed = trained_on("digits")
    changed.evals.x = config.evaluator("zero_shot", **{key: value})
    changed.evals.x.kind = kind  # as --config.evals.x.kind= does
    assert bool(noticed(changed)) != is_read


def test_top_level_data_beside_a_mixture_are_told():
    for key, value in OTHER.items() | {("source", "tar")}:
        c = config.defaults()
        c.data.mixture.demo = config.part(1.0, source="scenes")
        c.data[key] = value
        assert f"config.data.{key}=" in noticed(c), key


IDLE = {  # a setting → its value, and what leaves it without effect
    "init.towers": (("vision",), {}),
    "init.resize_positions": (False, {}),
    "loss.block_size": (64, {"loss.name": "softmax_gather"}),
    "model.logit_bias": (True, {"loss.name": "softmax_ring", "model.name": "custom"}),
    "optimizer.epsilon": (1e-3, {"optimizer.name": "lion"}),
    "schedule.timescale": ("7 steps", {"schedule.name": "cosine"}),
    "tokenizer.max_captions": (5, {"tokenizer.path": "my.model"}),
    "checkpoint.keep_best.mode": ("min", {}),
    "data.window": (2, {"data.order": "global"}),
    "data.text_weights": ((1.0,), {"data.text_key": "words"}),
}
IDLE_ELSEWHERE = [
    ("optimizer.epsilon", 1e-3, {"optimizer.name": "adafactor"}),
    ("schedule.timescale", "7 steps", {"schedule.name": "constant"}),
    ("tokenizer.max_captions", 5, {"tokenizer.kind": "clip"}),
    ("schedule.cooldown", "7 steps", {"schedule.name": "cosine"}),
]
USED = {
    "loss.block_size": {"loss.name": "softmax_ring"},
    "optimizer.epsilon": {"optimizer.name": "adamw"},
    "schedule.timescale": {"schedule.name": "rsqrt"},
    "tokenizer.max_captions": {"tokenizer.path": ""},
    "init.resize_positions": {"init.weights": "runs/other"},
    "data.window": {"data.order": "window"},
}


def with_settings(**changes):
    c = trained_on("tar")
    c.update_from_flattened_dict(changes)
    return c


@pytest.mark.parametrize(
    ("key", "value", "beside"), [*((k, *v) for k, v in IDLE.items()), *IDLE_ELSEWHERE]
)
def test_what_other_settings_leave_without_effect_is_told(key, value, beside):
    assert f"config.{key}={value}" in noticed(with_settings(**{**beside, key: value}))


@pytest.mark.parametrize(("key", "beside"), USED.items())
def test_what_has_an_effect_is_not(key, beside):
    assert noticed(with_settings(**{**beside, key: IDLE[key][0]})) == ""


def mistaken(where):
    c = trained_on("scenes")
    makers = {
        "optimizer": lambda: c.optimizer.update(learning_rte=1e-3),
        "": lambda: c.update(totl="3 steps"),
        "evals.x": lambda: c.evals.update(x=config.evaluator("retrieval", sorce="tar")),
        "evals.y": lambda: c.evals.update(y=config.evaluator("loss", order="window")),
        "stages.small": lambda: c.stages.update(small=config.stage("9 steps", learning_rate=1)),
        "data.mixture.web": lambda: c.data.mixture.update(
            web=config.part(1, source="scenes", max_examples=3)
        ),
        "model": lambda: c.model.update(embed_dm=3),
        "model.vision": lambda: c.model.vision.update(layer=3),
        "mesh": lambda: c.mesh.update(dta=2),
    }
    makers[where]()
    return c


PLACES_OF_MISTAKES = ["", "optimizer", "evals.x", "evals.y", "stages.small", "data.mixture.web"]
PLACES_OF_MISTAKES += ["model", "model.vision", "mesh"]


@pytest.mark.parametrize("where", PLACES_OF_MISTAKES)
def test_a_config_file_with_an_unknown_setting_is_refused(where):
    """Flags with one are refused by absl; a file could write anything, and nothing read it."""
    told = noticed(mistaken(where))
    assert told.startswith("config." + (f"{where}." if where else "")), told
    assert "\n" not in told


def test_settings_that_lack_something_or_are_none_are_refused():
    c = trained_on("scenes")
    c.evals.x = {"kind": "loss", "every": "3 steps"}
    assert "config.evals.x." in noticed(c) and "is missing" in noticed(c)
    c = trained_on("scenes")
    c.evals.x = "retrieval"
    assert "config.evals.x='retrieval'" in noticed(c)
    c = trained_on("digits")
    c.evals.x = config.evaluator("retrieval")
    c.evals.x.kind = "zero_shot"  # whose settings it lacks
    assert "config.evals.x.classes is missing" in noticed(c)


@pytest.mark.parametrize(
    ("changes", "source", "path", "text_key"),
    [
        ({}, "tar", "a/{0..2}.tar", "cap"),
        ({"path": "b/3.tar"}, "tar", "b/3.tar", "cap"),
        ({"path": "b"}, "tar", "b", "cap"),
        ({"path": "b/3.tar", "text_key": "own"}, "tar", "b/3.tar", "own"),
        ({"path": "b/rows.CSV"}, "table", "b/rows.CSV", ""),
        ({"path": "gs://b/{0..2}.parquet"}, "parquet", "gs://b/{0..2}.parquet", ""),
        ({"path": "b/x.tfrecord-00000-of-00002"}, "tfrecord", "b/x.tfrecord-00000-of-00002", ""),
        ({"text_key": "own"}, "tar", "a/{0..2}.tar", "own"),
        ({"source": "tar", "path": "b/3.tar"}, "tar", "b/3.tar", ""),
    ],
)
def test_the_data_of_an_evaluator_beside_training_on_shards(changes, source, path, text_key):
    c = trained_on("tar", text_key="cap")
    c.evals.x = config.evaluator("retrieval", **changes)
    config_check.check(c)
    data = evaluation_data.settings(c, "x")
    assert (data.source, data.path, data.text_key) == (source, path, text_key)


def test_data_that_are_not_said_are_asked_for():
    c = trained_on("scenes")
    c.evals.x = config.evaluator("retrieval", path="some_folder")
    assert "config.evals.x.path=some_folder: its ending does not tell" in noticed(c)
    c.evals.x = config.evaluator("retrieval", name="coco_captions")
    assert "without config.evals.x.source=tfds" in noticed(c)
    c.data.mixture.demo = config.part(1.0, source="scenes")
    c.evals.x = config.evaluator("retrieval")
    assert "the training data are a mixture" in noticed(c)
    c.evals.x = config.evaluator("retrieval", path="held_out.tar")
    config_check.check(c)
    c = trained_on("tfds", name="one")
    c.evals.x = config.evaluator("retrieval", name="two")
    config_check.check(c)
    data = evaluation_data.settings(c, "x")
    assert (data.source, data.name, data.path) == ("tfds", "two", "prepared")


OF_STAGES = {  # settings of `config.stage` → another value, and what shows it in the stage's config
    "until": ("48 examples", lambda stage: stage.last_step * 16 == 48),
    "batch_size": (8, lambda stage: stage.config.batch_size == 8),
    "micro_batches": (2, lambda stage: stage.config.micro_batches == 2),
    "image_size": (16, lambda stage: stage.config.model.vision.image_size == 16),
    "context_length": (12, lambda stage: stage.config.model.text.context_length == 12),
    "patch_dropout": (0.5, lambda stage: stage.config.patch_dropout == 0.5),
}


def staged(**changes):
    c = tiny.tiny()
    c.stages.small = config.stage(**{"until": "32 examples"} | changes)
    return c


def test_every_setting_of_a_stage_is_in_the_table():
    assert set(OF_STAGES) == set(config.stage("1 steps"))
    assert not any(shows(stages.plan(staged(), epoch_examples=None)[0]) for _, shows in MEASURED)


MEASURED = list(OF_STAGES.values())


@pytest.mark.parametrize("key", OF_STAGES)
def test_every_setting_of_a_stage_is_in_effect_until_its_end(key):
    value, shows = OF_STAGES[key]
    c = staged(**{key: value})
    assert noticed(c) == ("" if key != "until" else IDLE_STAGE.format(value))
    small, last = stages.plan(c, epoch_examples=None)
    assert shows(small) and not shows(last)
    assert small.config.model.name == "custom"


IDLE_STAGE = "config.stages.small.until={} has no effect: the stage sets nothing else"


def test_a_stage_that_changes_nothing_is_told():
    assert noticed(staged()) == IDLE_STAGE.format("32 examples")
    assert noticed(staged(batch_size=16, image_size=32)) == IDLE_STAGE.format("32 examples")
    assert noticed(staged(batch_size=16, image_size=16)) == ""


HELD = {  # groups of which a config holds several → how one with a further setting is made
    "stages.x": lambda more: config.stage("32 examples", image_size=16, **more),
    "evals.x": lambda more: config.evaluator("retrieval", **more),
    "data.mixture.x": lambda more: config.part(1.0, source="scenes", **more),
}
ALL_NAMES = sorted({*flatten(config.defaults()), *config.records(), *config.evaluator("zero_shot")})
ALL_NAMES = sorted({name.rpartition(".")[2] for name in ALL_NAMES})
FOREIGN = [(w, n) for w, make in HELD.items() for n in ALL_NAMES if n not in make({})]


def test_every_setting_of_another_group_is_refused_in_a_stage_an_evaluator_and_a_part():
    """What a run, a source or an evaluator has, where nothing reads it: exit code 64."""
    assert len(FOREIGN) > 200
    for where, name in FOREIGN:
        c = tiny.tiny()
        group, _, own = where.rpartition(".")
        held = c
        for each in group.split("."):
            held = held[each]
        held[own] = HELD[where]({name: 1})
        assert noticed(c).startswith(f"config.{where}.{name}: no such setting"), (where, name)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf"), "much", None])
def test_a_weight_that_is_no_share_is_refused(weight):
    c = trained_on("scenes")
    c.data.mixture.web = config.part(1.0, source="scenes")
    with c.ignore_type():
        c.data.mixture.web.weight = weight
    assert noticed(c).startswith("config.data.mixture.web.weight")


def test_weights_are_the_shares_of_a_mixture():
    c = tiny.tiny()
    c.data.mixture.drawn = config.part(3.0, source="scenes")
    c.data.mixture.glyphs = config.part(1, source="digits")
    config_check.check(c)
    joined = build_data.source(c.data, image_size=32, seed=0)
    shares = build_data.examples(c, source=joined, tokenizer=None).progress(400)
    assert shares["data/drawn/examples"] == 3 * shares["data/glyphs/examples"] == 300
