"""What orbax and tensorstore tell of a failed save at length becomes one line that says why."""

import logging
import pathlib

import orbax.checkpoint as ocp
import pytest
from etils import epath

from clipjax.training.checkpoint import errors
from clipjax.training.checkpoint import manage as checkpoint_manager

FULL = (
    'RESOURCE_EXHAUSTED: Error writing "params.logit_scale/0" in OCDBT database at local file'
    ' "{0}/10.orbax-checkpoint-tmp/state/ocdbt.process_0/": Failed writing: "{0}/10/d/40680392b8":'
    " Failed to write 1019253 bytes to file 28: {1} [os_error_code='{2}']"
    " [tensorstore_spec='{{...}}']"
)


@pytest.mark.parametrize(
    ("name", "number", "advice"),
    [("No space left on device", 28, "; make room"), ("Input/output error", 5, "")],
)
def test_a_full_store_is_named(tmp_path, name, number, advice):
    folder = epath.Path(tmp_path)
    error = ValueError(FULL.format(folder, name, number))
    told = errors.failed("saving", 10, folder, error)
    assert told == f"saving step 10 in {folder}: ValueError: {name}{advice}"


def test_other_words_stay(tmp_path):
    told = errors.failed("saving", 1, epath.Path(tmp_path), ValueError("NOT_FOUND: the store"))
    assert told == f"saving step 1 in {tmp_path}: ValueError: NOT_FOUND: the store"


def test_orbax_s_tracebacks_stay_out_of_the_log():
    of_orbax = str(pathlib.Path(ocp.__file__).parent / "async_checkpointer.py")
    raised = (ValueError, ValueError("x"), None)

    def record(path, exc_info):
        return logging.LogRecord("absl", logging.ERROR, path, 1, "failed", (), exc_info)

    assert not checkpoint_manager._is_news(record(of_orbax, raised))
    assert checkpoint_manager._is_news(record(of_orbax, None))
    assert checkpoint_manager._is_news(record(__file__, raised))
