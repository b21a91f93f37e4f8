"""Signs of life while something takes long."""

import threading

import pytest

from clipjax.common import waiting


def test_the_time_so_far_is_told_until_the_end():
    said, twice = [], threading.Event()

    def say(text):
        said.append(text)
        if len(said) == 2:
            twice.set()

    with waiting.told("compiling", every=0.01, say=say):
        assert twice.wait(60)
    count = len(said)
    assert all(line.startswith("compiling: ") and line.endswith(" s") for line in said)
    assert not [t for t in threading.enumerate() if t.name == "waiting"]
    assert len(said) == count, "nothing is said after the end"


def test_a_short_wait_says_nothing_and_an_error_ends_it():
    said = []
    with (
        pytest.raises(ValueError, match="broken"),
        waiting.told("compiling", every=3600.0, say=said.append),
    ):
        raise ValueError("broken")
    assert said == [] and not [t for t in threading.enumerate() if t.name == "waiting"]
