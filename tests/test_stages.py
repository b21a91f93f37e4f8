"""Stages in one run: where they begin and end, what is carried over, and resuming in each."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax import config as settings
from clipjax.common import exits
from clipjax.common.exits import ConfigError
from clipjax.config import check as config_check
from clipjax.config import stages
from clipjax.training.carry_over import carry_over
from tests import processes, tiny


def staged(**changes):
    """32, 48 and 64 pixels; texts of 12, then 24 tokens; batches of 32, 16 and 16."""
    c = tiny.tiny(total="160 examples", **changes)
    c.model.vision.image_size = 64
    c.stages.small = settings.stage(
        "64 examples", image_size=32, context_length=12, batch_size=32, micro_batches=2
    )
    c.stages.middle = settings.stage("112 examples", image_size=48)
    return c


get_config = staged  # `--config=tests/test_stages.py` for runs in processes of their own


def test_plan():
    small, middle, last = stages.plan(staged(), epoch_examples=None)
    assert [small.name, middle.name, last.name] == ["small", "middle", ""]
    assert [(s.first_step, s.last_step, s.first_example) for s in (small, middle, last)] == [
        *[(0, 2, 0), (2, 5, 64), (5, 8, 112)]
    ]
    assert [s.examples(s.last_step) for s in (small, middle, last)] == [64, 112, 160]
    assert small.config.micro_batches == 2 and last.config.micro_batches == 1
    assert small.config.model.text.context_length == 12 and small.config.batch_size == 32
    assert middle.config.model.vision.image_size == 48 and not middle.config.stages
    # The schedule counts steps of the run's own batch.
    assert [small.scheduled(step) for step in (0, 1, 2)] == [0, 2, 4]
    assert [middle.scheduled(step) for step in (2, 3, 5)] == [4, 5, 7]
    assert last.scheduled(8) == 10
    assert [stages.at([small, middle, last], step).name for step in (0, 2, 3, 5, 6, 9)] == [
        *["small", "small", "middle", "middle", "", ""]
    ]


def test_a_run_without_stages_is_one_and_keeps_its_steps():
    (only,) = stages.plan(tiny.tiny(), epoch_examples=None)
    assert (only.first_step, only.last_step, only.examples(6)) == (0, 6, 96)
    step = jnp.int32(3)
    assert only.scheduled(step) is step


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"until": "12 potatoes"}, "config.stages.a.until: '12 potatoes' is not a duration"),
        ({"until": "200 examples"}, "config.total=160 examples: comes to 160 examples, where 208"),
        ({"until": "16 examples", "image_size": 33}, "config.stages.a: config.model.vision"),
        ({"until": "16 examples", "batch_size": -1}, "config.stages.a.batch_size=-1"),
        ({"until": "0 examples"}, "config.stages.a.until=0 examples: comes to 0 examples"),
    ],
)
def test_a_mistake_is_one_line(changes, told):
    c = staged()
    c.stages = {"a": settings.stage(**changes)}
    with pytest.raises(ConfigError) as error:
        config_check.check(c)
    assert told in str(error.value) and "\n" not in str(error.value)


def test_a_batch_that_does_not_divide_is_told_before_the_first_stage(tmp_path, capsys):
    c = staged()
    c.stages.middle.batch_size = 12  # over 8 devices
    assert tiny.run(c, tmp_path / "run") == exits.BAD_CONFIG
    assert "12: does not divide over 8 devices" in capsys.readouterr().out
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_tables_are_carried_into_another_size():
    placed = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def tables(side, length):
        vision, text = (1 + side**2, 8), (length, 8)
        tree = {
            "params": {"vision": {"position_embedding": vision, "w": (3,)}},
            "opt_state": [{"nu": {"vision": {"position_embedding": vision}}}],
        }
        tree["params"]["text"] = {"position_embedding": text}
        is_shape = lambda x: isinstance(x, tuple)  # noqa: E731
        return jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(s, jnp.float32, sharding=placed), tree, is_leaf=is_shape
        )

    keys = iter(jax.random.split(jax.random.key(0), 9))
    old = jax.tree.map(lambda x: jnp.exp(jax.random.normal(next(keys), x.shape)), tables(3, 6))
    host = jax.tree.map(np.asarray, old)
    new = carry_over(old, tables(5, 9))
    params, nu = new["params"], new["opt_state"][0]["nu"]["vision"]["position_embedding"]
    assert params["vision"]["position_embedding"].shape == (26, 8) == nu.shape
    assert params["text"]["position_embedding"].shape == (9, 8)
    np.testing.assert_array_equal(params["vision"]["w"], host["params"]["vision"]["w"])
    before = host["opt_state"][0]["nu"]["vision"]["position_embedding"]
    np.testing.assert_array_equal(nu[0], before[0], "the class token's is kept")
    assert before.min() <= nu.min() and nu.max() <= before.max(), "means, nothing beyond"
    same = carry_over(new, tables(5, 9))
    assert same is new


def test_only_tables_may_change_their_size():
    placed = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = {"params": {"w": jax.ShapeDtypeStruct((3,), jnp.float32, sharding=placed)}}
    with pytest.raises(ConfigError, match=r"config.stages: params/w is \(2,\) in one stage"):
        carry_over({"params": {"w": jnp.ones(2)}}, wanted)


def test_an_old_run_without_stages_is_the_same_config():
    c = tiny.tiny()
    stored = json.loads(json.dumps(c.to_dict()))
    del stored["stages"]
    assert not settings.changed(settings.flatten(stored), settings.flatten(c))


LONG = (  # 30 steps of 32 pairs, 45 and 45 of 16
    *("--config=tests/test_stages.py", "--config.total=2400 examples"),
    *("--config.stages.small.until=960 examples", "--config.stages.middle.until=1680 examples"),
    *("--config.checkpoint.every=7 steps", "--config.checkpoint.keep_every=15 steps"),
)
TESTS = {"PYTHONPATH": str(processes.ROOT)}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run through its stages without interruption."""
    folder = tmp_path_factory.mktemp("stages") / "straight"
    process = processes.start(*LONG, f"--workdir={folder}", environment=TESTS)
    assert processes.finish(process) == exits.DONE, processes.output(process)
    return folder


@pytest.mark.slow
def test_killed_in_every_stage_it_is_the_straight_run(straight, tmp_path):
    workdir = tmp_path / "run"
    # Lines of steps trained again count, too.
    for lines, begin, end in ((12, 0, 30), (50, 30, 75), (120, 75, 120)):
        process = processes.start(*LONG, f"--workdir={workdir}", environment=TESTS)
        processes.wait_for_lines(process, workdir / "metrics.jsonl", lines)
        processes.kill(process)
        assert processes.finish(process) == -9
        last = max(tiny.values(workdir))
        print(f"killed at step {last}")
        assert begin < last < end, "not within its stage"
    process = processes.start(*LONG, f"--workdir={workdir}", environment=TESTS)
    assert processes.finish(process) == exits.DONE, processes.output(process)
    values = tiny.values(workdir)
    assert sorted(values) == list(range(1, 121)) and values == tiny.values(straight)
    seen = [values[step]["examples_seen"] for step in sorted(values)]
    assert seen == [*range(32, 961, 32), *range(976, 2401, 16)]
    digests = [last_digests(folder) for folder in (workdir, straight)]
    assert digests[0] == digests[1], "bit-equal parameters and optimizer state"


def last_digests(workdir):
    """Digest of every array of the last checkpoint."""
    from clipjax.training.checkpoint.write import Checkpoints

    return Checkpoints(str(workdir), read_only=True).read_run(120)["digests"]


@pytest.mark.slow
def test_a_checkpoint_of_a_stage_is_a_model_of_its_own(straight):
    import clipjax

    assert {30, 75, 120} & {int(path.name) for path in (straight / "checkpoints").iterdir()}
    assert clipjax.load(straight).image_size == 64
    model = clipjax.load(straight, step=75)  # the end of the second stage
    assert model.image_size == 48 and model.config.model.vision.image_size == 48
    assert model.encode_image([np.zeros((40, 40, 3), np.uint8)]).shape == (1, 16)
