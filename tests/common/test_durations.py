"""Durations as strings."""

import pytest

from clipjax.common import durations
from clipjax.common.exits import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2000 steps", 2000),
        ("1 step", 1),
        ("2k steps", 2000),
        ("12.8G examples", 390_625),
        ("12_800_000_000 examples", 390_625),
        ("32 epochs", 390_625),
        ("0 steps", 0),
        ("1 example", 1),
    ],
)
def test_steps(text, expected):
    found = durations.steps(text, where="x", batch_size=32_768, epoch_examples=400_000_000)
    assert found == expected


WRONG = ["5", "5 minutes", "steps", "-3 steps", "3.2.1 steps", "", None, 7]


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_duration_is_refused_by_name(text):
    with pytest.raises(ConfigError, match=r"config\.total: .* is not a duration"):
        durations.parse(text, where="config.total")


def test_epochs_need_a_length():
    with pytest.raises(ConfigError, match="known length"):
        durations.steps("1 epoch", where="x", batch_size=8)


def test_a_window_of_steps():
    assert durations.step_window("", where="config.profile") == range(0)
    assert durations.step_window("100:105", where="config.profile") == range(100, 105)


@pytest.mark.parametrize("text", ["5", "5:5", "a:b", "7:3"])
def test_what_is_no_window_is_refused_by_name(text):
    with pytest.raises(ConfigError, match=r"config\.profile"):
        durations.step_window(text, where="config.profile")
