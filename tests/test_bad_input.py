"""Mistakes end with one line and the right code, before anything is compiled."""

import subprocess
import sys

import pytest

from clipjax.common import exits
from tests import processes, tiny


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "clipjax.main", *arguments],
        cwd=processes.ROOT,
        capture_output=True,
        text=True,
        timeout=processes.TIMEOUT,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "--config is missing"),
        (("--config=configs/none.py",), "--config=configs/none.py: no such file"),
        (("--config=configs/vitl14.py", "--config.batchsize=3"), 'did you mean "batch_size"'),
        (
            ("--config=configs/vitl14.py", "--config.model.vision.layer=3"),
            'did you mean "model.vision.layers"',
        ),
        (("--config=configs/vitl14.py", "--config.batch_size=many"), "batch_size=many"),
        (("--config=configs/vitl14.py", "--wrkdir=x"), "wrkdir"),
        (("--config=configs/vitl14.py", "train"), '"train" is no flag'),
        (
            ("--config=configs/quickstart.py", "--config.model.vision.image_size=65"),
            "config.model.vision.image_size is 65, not a multiple of config.model.vision.patch_",
        ),
        (
            ("--config=configs/vitl14.py", "--config.model.vision.layers=2"),
            "contradicts model.name=ViT-L/14",
        ),
        (
            ("--config=configs/quickstart.py", "--config.schedule.warmup=90000 steps"),
            "longer than the whole run",
        ),
        (("--config=configs/quickstart.py", "--config.loss.name=softmax"), "config.loss.name"),
        (("--config=configs/figure2.py:caption,scenes", "--config.batchsize=3"), "batch_size"),
        (("--config=configs/quickstart.py:tiny",), "quickstart.py: has no variants; drop"),
        (("--config=configs/figure2.py:captions",), '"captions" is none of caption, words'),
        (
            ("--config=configs/figure2.py:words,scenes", "--config.loss.name=softmax_ring"),
            "model.text.kind=word_prediction needs likelihood",
        ),
        (("--config=configs/quickstart.py", "--config.total=5 minutes"), "is not a duration"),
        (
            ("--config=configs/vitb32.py", "--config.data.path=0.tar", "--config.data.path=1.tar"),
            "--config.data.path is given 2 times, with 0.tar and 1.tar; give it once, braces in",
        ),
    ],
)
def test_one_line_and_exit_64(arguments, told):
    ended = command(*arguments)
    assert ended.returncode == exits.BAD_CONFIG, ended.stderr
    assert told in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert "Traceback" not in ended.stderr


def test_without_data_three_lines_to_copy():
    ended = command("--config=configs/vitl14.py")
    assert ended.returncode == exits.BAD_CONFIG
    lines = [line.strip() for line in ended.stderr.splitlines()[1:]]
    assert [line.split()[0] for line in lines] == [
        "--config.data.source=tfds",
        "--config.data.source=tar",
        "--config.data.source=scenes",
    ]


def test_config_from_another_folder(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from clipjax import config\n"
        "def get_config():\n"
        "    c = config.defaults()\n"
        "    c.batch_size = -3\n"
        "    return c\n"
    )
    ended = command(f"--config={file}")
    assert ended.returncode == exits.BAD_CONFIG
    assert "config.batch_size=-3: must be positive" in ended.stderr


def test_broken_config_file_is_told(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("def get_config():\n    return undefined_name\n")
    ended = command(f"--config={file}")
    assert ended.returncode == exits.BAD_CONFIG
    assert "undefined_name" in ended.stderr and "Traceback" not in ended.stderr


@pytest.fixture
def compiled_nothing(monkeypatch):
    """Fail if the training program would be compiled."""
    from clipjax.build import program as build

    def never(*arguments, **options):
        raise AssertionError("the program was built before the mistake was found")

    monkeypatch.setattr(build, "program", never)


def test_batch_that_does_not_divide(compiled_nothing, tmp_path, capsys):
    assert tiny.run(tiny.tiny(batch_size=12), tmp_path / "run") == exits.BAD_CONFIG
    assert "config.batch_size=12: does not divide over 8 devices" in capsys.readouterr().out


def test_vocabulary_larger_than_the_captions_support(compiled_nothing, tmp_path, capsys):
    c = tiny.tiny()
    c.model.text.vocab_size = 30_000
    assert tiny.run(c, tmp_path / "run") == exits.BAD_CONFIG
    assert "use at most" in capsys.readouterr().out


def test_a_start_that_failed_claims_no_folder(tmp_path, capsys):
    """The mistake is mended, and the next start goes on; only then is it that run's."""
    c = tiny.tiny(total="2 steps")
    c.model.text.vocab_size = 30_000
    assert tiny.run(c, tmp_path / "run") == exits.BAD_CONFIG
    assert tiny.run(tiny.tiny(total="2 steps"), tmp_path / "run") == exits.DONE
    assert tiny.run(tiny.tiny(total="2 steps", batch_size=32), tmp_path / "run") == exits.BAD_CONFIG
    assert "holds a run with other settings (batch_size: 16 → 32)" in capsys.readouterr().out
