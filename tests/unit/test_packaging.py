"""What pyproject.toml promises: the extras that messages name, `all`, and a base install that serves."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
BASE = {canonicalize_name(Requirement(line).name): Requirement(line) for line in PROJECT["dependencies"]}
PATCHED = {
    "torch": "2.10.0",
    "pillow": "12.3.0",
    "filelock": "3.20.3",
    "jinja2": "3.1.6",
    "starlette": "1.3.1",
    "python-multipart": "0.0.31",
    "h11": "0.16.0",
    "pyarrow": "23.0.1",
}
"""The first version of each without a known hole; see the comment in pyproject.toml."""


def named_extras() -> set[str]:
    """The extras that code, pages and studies tell people to install."""
    folders = [ROOT / "src", ROOT / "docs", ROOT / "examples", ROOT / "studies"]
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in (".py", ".md", ".toml")]
    texts = [path.read_text(encoding="utf-8") for path in (*files, ROOT / "README.md", ROOT / "CONTRIBUTING.md")]
    found = {extra for text in texts for extra in re.findall(r"backbench\[([a-z]+)\]", text)}
    return found | {extra for text in texts for extra in re.findall(r'MissingExtra\(\s*[^,()]+,\s*"(\w+)"', text)}


def test_every_extra_that_is_named_exists() -> None:
    named = named_extras()
    assert {"hf", "clip", "parquet", "umap", "quant", "heif", "all"} <= named
    assert named <= set(EXTRAS)


def test_all_takes_every_optional_part() -> None:
    (only,) = EXTRAS["all"]
    taken = Requirement(only)
    assert taken.name == PROJECT["name"]
    assert taken.extras == set(EXTRAS) - {"all", "dev", "serve"}
    assert EXTRAS["serve"] == []  # in the base install


@pytest.mark.parametrize("name", PATCHED)
def test_floors_lie_past_known_holes(name: str) -> None:
    given = [*BASE.values(), *(Requirement(line) for lines in EXTRAS.values() for line in lines)]
    requirement = next(each for each in given if canonicalize_name(each.name) == name)
    floors = [Version(each.version) for each in requirement.specifier if each.operator == ">="]
    assert floors
    assert max(floors) >= Version(PATCHED[name])


def imports_of(path: Path) -> set[str]:
    """The packages that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"backbench"}


def test_the_server_and_the_commands_need_the_base_install_alone() -> None:
    distributions = packages_distributions()
    for folder in ("serve", "cli"):
        for path in (ROOT / "src" / "backbench" / folder).rglob("*.py"):
            for package in imports_of(path):
                owners = {canonicalize_name(name) for name in distributions[package]}
                assert owners & set(BASE), f"{path.name} imports {package}, which no base dependency is"
