"""Configs and suites by name: the shipped ones, their variants, and local files before them."""

import pathlib

import pytest

from clipjax.common import shipped
from clipjax.common.exits import ConfigError
from tests import processes

CONFIGS = sorted(path.stem for path in (processes.ROOT / "configs").glob("*.py"))
SUITES = sorted(path.stem for path in (processes.ROOT / "configs/evals").glob("*.py"))


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("flag", "name"),
    [*(("config", name) for name in CONFIGS), *(("suite", name) for name in SUITES)],
)
def test_shipped_files_go_by_their_names(flag, name):
    path = pathlib.Path(shipped.file(name, flag=flag))
    assert path.stem == name and f"def get_{flag}(" in path.read_text()


@pytest.mark.parametrize("local", ["quickstart", "quickstart.py"])
def test_a_local_file_wins(local, empty_folder):
    (empty_folder / local).write_text("")
    assert shipped.file("quickstart", flag="config") == local


def test_a_folder_of_that_name_does_not(empty_folder):
    """A work directory may be called as its config."""
    (empty_folder / "digits").mkdir()
    assert shipped.file("digits", flag="config").endswith("configs/digits.py")
    assert shipped.file("digits", flag="suite").endswith("evals/digits.py")


def test_paths_stay_as_they_are(empty_folder, monkeypatch):
    (empty_folder / "mine").mkdir()
    (empty_folder / "mine/vitb32.py").write_text("")
    monkeypatch.setenv("HOME", str(empty_folder))
    assert shipped.file("mine/vitb32.py", flag="config") == "mine/vitb32.py"
    assert shipped.file("mine/vitb32", flag="config") == "mine/vitb32.py"
    assert shipped.file("~/mine/vitb32.py", flag="config") == f"{empty_folder}/mine/vitb32.py"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (
            "quikstart",
            '--config="quikstart" is unknown (did you mean "quickstart"?); known: digits',
        ),
        ("", '--config="" is unknown; known: digits, figure2'),
        ("configs/quickstart.py", 'looked from {folder} (did you mean "quickstart"?); known: dig'),
        ("gs://bucket/quickstart.py", "copy it to this machine first"),
    ],
)
def test_an_unknown_name_lists_what_is_known(value, told, empty_folder):
    with pytest.raises(ConfigError) as error:
        shipped.file(value, flag="config")
    assert told.format(folder=empty_folder) in str(error.value)
