"""The documentation runs: Python blocks are executed, commands exist, tables agree with the code."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import shutil
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner
from tools import PACKAGES

import dupnet
from dupnet import cost, zoo
from dupnet.cli import main

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "models" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [(page, block) for page in PAGES for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)]


@pytest.mark.parametrize(("page", "block"), BLOCKS, ids=[f"{page.stem}-{number}" for number, (page, _) in enumerate(BLOCKS)])
def test_python_blocks_run(page: Path, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    exec(compile(block, str(page), "exec"), {})


MODULES = [module.name for module in pkgutil.walk_packages(dupnet.__path__, "dupnet.") if not module.name.endswith("__main__")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS).failed == 0


def test_one_version_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"\nversion: {dupnet.__version__}\n" in (ROOT / "CITATION.cff").read_text() and project["version"] == dupnet.__version__


def test_the_tools_of_the_slow_tests_are_named_where_they_are_installed() -> None:
    for page in (ROOT / "CONTRIBUTING.md", ROOT / ".ci" / "run"):
        missing = {package for packages in PACKAGES.values() for package in packages.split()} - set(page.read_text().split())
        assert not missing, page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documented_commands_and_options_exist(page: Path) -> None:
    text = page.read_text()
    for verb, rest in re.findall(r"^    dupnet ([\w-]+)([^\n#]*)", text, re.MULTILINE):
        result = CliRunner().invoke(main, [verb, "--help"])
        assert result.exit_code == 0, f"{page.name}: dupnet {verb}"
        for option in re.findall(r"--[a-z-]+", rest):
            assert re.search(rf"{option}\b(?!-)", result.output), f"{page.name}: dupnet {verb} has no {option}"


def test_the_readmes_costs() -> None:
    rows = re.findall(
        r"^\| `(dupnet-[\w-]+)` \| ([\d.]+) KB \| ([\d,]+) bytes \| ([\d,]+) M \(([\d,]+) M\)",
        (ROOT / "README.md").read_text(),
        re.MULTILINE,
    )
    assert rows
    for name, kilobytes, file_bytes, macs, effective in rows:
        total = cost.count(zoo.get(name), (480, 640)).total
        assert f"{total.weight_bytes / 1024:.1f}" == kilobytes and f"{zoo.model_path(name).stat().st_size:,}" == file_bytes
        assert f"{total.macs / 1e6:,.0f}" == macs and f"{total.effective_macs / 1e6:,.0f}" == effective
