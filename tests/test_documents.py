"""What the documents name is there: links, programs, configs and settings."""

import pathlib
import re

import pytest

from clipjax import config
from tests import processes

ROOT = processes.ROOT
PAGES = sorted(
    path
    for pattern in ("*.md", "*/*.md", "*/*/*.md")
    for path in [*ROOT.glob(pattern), *ROOT.glob(f".github/{pattern}")]
    if not {".venv", ".pytest_cache"} & set(path.parts)
)
PROGRAM = re.compile(r"python -m clipjax\.(\w+)")
CONFIG = re.compile(r"--config=configs/([\w/]+\.py)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
SETTING = re.compile(r"(?:--config\.|`config\.|`)((?:[a-z_0-9]+\.)+[a-z_0-9]+)(?=[=`, ])")


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def broken(page: pathlib.Path) -> list[str]:
    """The links of a page into the repository that lead nowhere."""
    links = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    bad = []
    for link in links:
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            bad.append(link)
    return bad


def is_setting(name: str) -> bool:
    """Whether a dotted name is a default's; evaluators, stages and parts have their own."""
    node = config.defaults()
    for part in name.split("."):
        if part not in node:
            return False
        node = node[part]
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_is_there(page):
    text = page.read_text()
    assert broken(page) == []
    for program in PROGRAM.findall(text):
        assert (ROOT / "clipjax" / f"{program}.py").exists() or program.isupper(), program
    for name in CONFIG.findall(text):
        assert (ROOT / "configs" / name).exists() or name == "mine.py", name
    groups = {"data", "optimizer", "schedule", "loss", "mesh", "checkpoint", "init"}
    for setting in SETTING.findall(text):
        if setting.split(".")[0] in groups and not setting.startswith("data.mixture"):
            assert is_setting(setting), setting


def test_a_broken_link_would_be_seen(tmp_path):
    page = tmp_path / "x.md"
    page.write_text("# A b\n[1](#a-b) [2](#c) [3](x.md#a-b) [4](none.md) [5](https://none)")
    assert broken(page) == ["#c", "none.md"]
    assert is_setting("optimizer.beta1") and not is_setting("optimizer.beta3")


def test_every_folder_has_a_page_and_the_first_is_short():
    for folder in ("clipjax", "configs", "launch", "tests"):
        assert (ROOT / folder / "README.md") in PAGES
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200
