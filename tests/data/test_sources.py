"""The registry of sources."""

import importlib
import sys

import pytest

from clipjax.common.exits import ConfigError
from clipjax.data import sources


def test_every_name_leads_to_something_that_makes_a_source():
    for name in sources.names:
        assert callable(sources.get(name))


def test_an_unknown_name_gets_the_closest():
    with pytest.raises(
        ConfigError, match=r'config.data.source: "tdfs" is unknown \(did you mean "tfds"'
    ):
        sources.get("tdfs")


def test_naming_a_source_does_not_import_tensorflow_datasets_code():
    sources.get("tfds")
    assert "tensorflow" not in sys.modules


def test_endings_are_those_of_the_formats():
    for entry in sources.SOURCES.values():
        if entry.ending:
            module = importlib.import_module(entry.code.split(":")[0])
            (form,) = {f for f in vars(module).values() if getattr(f, "ending", None)}
            assert form.ending == entry.ending
