"""Old names of modules lead to the new ones."""

import importlib
import subprocess
import sys

import pytest

import clipjax
from clipjax import evals
from clipjax.common import moved


@pytest.mark.parametrize("old", moved.MOVED)
def test_an_old_name_is_the_module_of_today_and_says_so(old):
    package, _, name = old.rpartition(".")
    with pytest.warns(DeprecationWarning, match=f"{old} is {moved.MOVED[old]} now"):
        module = getattr(importlib.import_module(package), name)
    assert module is importlib.import_module(moved.MOVED[old])


@pytest.mark.parametrize("package", [clipjax, evals])
def test_what_was_never_there_is_no_attribute(package):
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'x'"):
        _ = package.x


def test_scripts_import_it_as_they_did():
    script = "from clipjax import config, config_check; config_check.check(config.defaults())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1 and "ConfigError: config" in done.stderr, done.stderr
