"""What is typed after `--config.`, and config files that are none: one line, 64, nothing loaded."""

import subprocess
import sys

import pytest

from clipjax.common import exits
from tests import processes

MAIN = """
import runpy, sys
try:
    runpy.run_module("clipjax.main", run_name="__main__", alter_sys=True)
finally:
    print(sorted({"jax", "grain", "numpy", "torch"} & set(sys.modules)))
"""


def refused(*arguments: str) -> str:
    """The line that `clipjax.main` ends with, before anything heavy is imported."""
    ended = subprocess.run(
        [sys.executable, "-c", MAIN, *arguments],
        cwd=processes.ROOT,
        capture_output=True,
        text=True,
        timeout=processes.TIMEOUT,
        check=False,
    )
    assert ended.returncode == exits.BAD_CONFIG, ended.stderr
    assert ended.stdout.strip() == "[]", "something heavy was imported"
    (line,) = ended.stderr.strip().splitlines()
    return line


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("batch_size=None", "--config.batch_size=None: give a whole number"),
        ("batch_size=-1e3", "config.batch_size=-1000: must be positive"),  # is read as an int
        ("batch_size=3.25e1", "--config.batch_size=3.25e1: give a whole number"),
        ("optimizer.beta2=None", "--config.optimizer.beta2=None: give a number"),
        ("optimizer.learning_rate=nan", "config.optimizer.learning_rate=nan: must be positive"),
        ("model.scan=None", "--config.model.scan=None: give True or False"),
        ("wandb=None", "config.wandb='None': must be text"),
        ("optimizer.bfloat16_weights=None", "bfloat16_weights[0]=None: is no regular expression"),
        ("optimizer.learning_rate_factors=[['(', 1]]", "[0][0]='(': is no regular expression"),
        ("init.towers=(1,)", "config.init.towers[0]=1: must be one of vision, text"),
        ("model.vision=3", "--config.model.vision=3: is a group of settings"),
        ("mesh={'data': 8}", "config.mesh.fsdp is missing"),
        ("optimizer.lr=3", 'did you mean "optimizer.learning_rate"'),
        ("data.max_bad_fraction=5", "config.data.max_bad_fraction=5.0: must be at least 0 and at"),
    ],
)
def test_a_value_that_cannot_be(typed, told):
    assert told in refused("--config=quickstart", f"--config.{typed}")


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("settings = 1", "has no function get_config()"),
        ("def get_config(): pass", "get_config() returns NoneType"),
        ("def get_config(): return {'batch_size': 1}", "get_config() returns dict"),
        ("def get_config(): raise OSError('gone')", "gone"),
        ("def get_config(:", "invalid syntax"),
        (
            "from clipjax import config\ndef get_config():\n  c = config.defaults()\n"
            "  c.epochs = 3\n  return c",
            'config.epochs: no such setting (did you mean "total"?)',
        ),
        (
            "from clipjax import config\ndef get_config():\n  c = config.defaults()\n"
            "  c.total = 3\n  return c",
            "line 4: total is 3; give a text in quotes",
        ),
        (
            "from clipjax import config\ndef get_config():\n  c = config.defaults()\n"
            "  c.evals.x = config.evaluator('zero_shot', classes=['a'])\n  return c",
            "line 4: classes is ['a']; give a text in quotes",
        ),
        (
            "from clipjax import config\ndef get_config():\n  c = config.defaults()\n"
            "  c.batch_size = 'many'\n  return c",
            'line 4: batch_size is "many"; give a whole number',
        ),
    ],
)
def test_a_file_that_is_no_config(lines, told, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(lines + "\n")
    line = refused(f"--config={file}")
    assert told in line and line.startswith(("clipjax: config.", f"clipjax: {file}"))
