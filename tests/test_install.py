"""The package as users get it: sdist, wheel from the unpacked sdist, editable, and uninstalled.

Each is tried in an environment and a folder that hold nothing else of clipjax; the packages that it
needs are those of the environment that runs the tests.
"""

import email
import os
import pathlib
import site
import subprocess
import sys
import tarfile
import venv
import zipfile

import processes
import pytest

pytestmark = pytest.mark.install
INSTALLS = ("wheel", "editable", "uninstalled")
TOP_LEVEL = {"clipjax", "configs", "launch", "tests", "README.md", "LICENSE"}
TOP_LEVEL |= {"pyproject.toml", "setup.cfg"}


def call(*command, folder, env=None):
    """What a command printed, which must succeed."""
    ended = subprocess.run(
        [*map(str, command)], cwd=folder, env=env, capture_output=True, text=True, timeout=600
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended.stdout


def build(verb, *, source, output):
    """What setuptools makes of a source tree, as pip would ask it to."""
    code = f"from setuptools import build_meta; print(build_meta.{verb}({str(output)!r}))"
    return output / call(sys.executable, "-c", code, folder=source).splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The unpacked source distribution."""
    folder = tmp_path_factory.mktemp("sdist")
    archive = build("build_sdist", source=processes.ROOT, output=folder)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (unpacked,) = (path for path in folder.iterdir() if path.is_dir())
    return unpacked


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    return build("build_wheel", source=sdist, output=tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module", params=INSTALLS)
def run(request, sdist, wheel, tmp_path_factory):
    """Run a Python command in an empty folder, with clipjax installed in one of the three ways."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "empty").mkdir()
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv/bin/python"
    others = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS")}
    env = {**others, "HOME": str(folder)}
    (packages,) = (folder / "venv/lib").glob("python*/site-packages")
    (packages / "others.pth").write_text("\n".join(site.getsitepackages()))
    if request.param == "uninstalled":
        env["PYTHONPATH"] = str(sdist)
    else:
        files = wheel
        if request.param == "editable":
            files = build("build_editable", source=sdist, output=folder)
        with zipfile.ZipFile(files) as archive:  # pure Python: all that pip does, too
            archive.extractall(packages)

    def run(*arguments):
        return call(python, *arguments, folder=folder / "empty", env=env)

    run.kind, run.folder, run.home = request.param, folder / "empty", sdist
    return run


def test_the_sdist_holds_the_repository(sdist):
    assert {path.name for path in sdist.iterdir()} >= TOP_LEVEL
    names = {str(path.relative_to(sdist)) for path in sdist.rglob("*") if path.is_file()}
    assert {".ci/run", "tests/golden/losses.json", "configs/evals/nightly.py"} <= names
    if (processes.ROOT / ".git").exists():
        tracked = call("git", "ls-files", folder=processes.ROOT).splitlines()
        assert {name for name in tracked if (processes.ROOT / name).exists()} <= names


def test_the_wheel_holds_the_package_and_its_configs(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"clipjax", "clipjax-0.1.0.dist-info"}
    code = {name for name in names if name.endswith((".py", ".json")) and "/configs/" not in name}
    root = processes.ROOT
    ours = (path for path in (root / "clipjax").rglob("*") if path.suffix in (".py", ".json"))
    assert code == {str(path.relative_to(root)) for path in ours}
    configs = {name.removeprefix("clipjax/") for name in names if "/configs/" in name}
    assert configs == {str(path.relative_to(root)) for path in (root / "configs").rglob("*.py")}


def test_the_metadata_are_complete(wheel):
    (name,) = (n for n in zipfile.ZipFile(wheel).namelist() if n.endswith("/METADATA"))
    metadata = email.message_from_bytes(zipfile.ZipFile(wheel).read(name))
    assert metadata["Author"] == "The clipjax authors"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "Development Status" in str(metadata.get_all("Classifier"))
    assert metadata["Keywords"] and metadata.get_all("Project-URL")
    assert metadata.get_payload().startswith("CLIP pre-training on TPU pods")


def test_clipjax_is_the_installed_one(run):
    where = run("-c", "import clipjax; print(clipjax.__version__, clipjax.__file__)").split()
    assert where[0] == "0.1.0"
    installed = run.folder.parent / "venv"
    assert pathlib.Path(where[1]).is_relative_to(installed if run.kind == "wheel" else run.home)


def test_shipped_configs_go_by_their_names(run):
    code = (
        "import runpy; from clipjax.common import shipped;"
        "[runpy.run_path(shipped.file(name, flag=flag))['get_' + flag]()"
        " for flag in ('config', 'suite') for name in shipped.names(flag)];"
        "print(len(shipped.names('config')), len(shipped.names('suite')))"
    )
    configs = len([*(processes.ROOT / "configs").glob("*.py")])
    assert run("-c", code).split() == [str(configs), "2"]


def test_a_first_run(run):
    """Train, ask, measure, export, load: the demo's commands by the config's name."""
    few = [f"--config.evals.{name}.max_examples=100" for name in ("held_out", "objects")]
    short = ("--config.total=4 steps", "--config.schedule.warmup=1 steps", *few)
    run("-m", "clipjax.main", "--config=quickstart", *short)
    assert (run.folder / "runs/quickstart/metrics.jsonl").exists(), "the default work directory"
    if run.kind != "wheel":
        return
    workdir = "--workdir=runs/quickstart"
    assert "objects: top-1 accuracy" in run("-m", "clipjax.evaluate", workdir)
    assert "objects_noto" in run("-m", "clipjax.evaluate", workdir, "--suite=nightly")
    convert = ("-m", "clipjax.convert", "--input=runs/quickstart")
    run(*convert, "--format=open_clip", "--output=exported")
    code = "import clipjax; print(clipjax.load('exported').encode_text(['a fox']).shape)"
    assert "(1, 96)" in run("-c", code)


def test_a_plan_of_a_shipped_config(run):
    pytest.importorskip("libtpu")
    if run.kind == "wheel":
        layers = [f"--config.model.{tower}.layers=1" for tower in ("vision", "text")]
        plan = ("-m", "clipjax.plan", "--config=quickstart", "--topology=v5e-1", *layers)
        assert "v5e" in run(*plan)
