"""The package as users get it: sdist, wheel from the unpacked sdist, editable, and uninstalled.

Each is tried in an environment and a folder that hold nothing else of clipjax; the packages that it
needs are those of the environment that runs the tests.
"""

import email
import os
import pathlib
import shutil
import site
import subprocess
import sys
import tarfile
import venv
import zipfile

import pytest

from tests import processes

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


def build_sdist(*, source, output):
    """The source distribution that is made of a tree, unpacked."""
    archive = build("build_sdist", source=source, output=output)
    with tarfile.open(archive) as tar:
        tar.extractall(output, filter="data")
    return output / archive.name.removesuffix(".tar.gz")


def files_below(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The unpacked source distribution."""
    return build_sdist(source=processes.ROOT, output=tmp_path_factory.mktemp("sdist"))


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
    names = files_below(sdist)
    assert {".ci/run", "tests/golden/losses.json", "configs/evals/nightly.py"} <= names
    if (processes.ROOT / ".git").exists():
        tracked = call("git", "ls-files", folder=processes.ROOT).splitlines()
        assert {name for name in tracked if (processes.ROOT / name).exists()} <= names


def test_a_build_of_the_unpacked_sdist_holds_the_same(sdist, tmp_path):
    again = shutil.copytree(sdist, tmp_path / "tree")
    (tmp_path / "dist").mkdir()
    assert files_below(build_sdist(source=again, output=tmp_path / "dist")) == files_below(sdist)


def test_a_build_of_an_archive_holds_the_same(tmp_path):
    """What `git archive` makes, and the code's hosts for download: no git, nothing built before."""
    if not (processes.ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    (tmp_path / "tree").mkdir()
    (tmp_path / "dist").mkdir()
    call("git", "archive", "HEAD", f"--output={tmp_path}/tree.tar", folder=processes.ROOT)
    with tarfile.open(tmp_path / "tree.tar") as tar:
        names = {member.name for member in tar if member.isfile()}
        tar.extractall(tmp_path / "tree", filter="data")
    built = files_below(build_sdist(source=tmp_path / "tree", output=tmp_path / "dist"))
    assert names <= built and not any(name.endswith(".pyc") for name in built)


def test_launch_tests_run_without_git(sdist):
    """They send a commit of the tree, which an unpacked sdist is not."""
    pytest_run = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "dry_run")
    env = {**os.environ, "PYTHONPATH": str(sdist), "PYTEST_XDIST_WORKER": ""}
    printed = call(*pytest_run, "tests/launch", folder=sdist, env=env)
    assert " skipped" not in printed or shutil.which("git") is None


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
