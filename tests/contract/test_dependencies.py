"""What the package imports is what `pyproject.toml` says it needs, with the extra that brings it."""

from __future__ import annotations

import ast
import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import bf_plugin
from bf_plugin.plugins.entrypoints import normal

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGE = Path(bf_plugin.__file__).parent
ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = {
    "bench/control.py": "fast",
    "dispatch/postgres.py": "postgres",
    "journal/postgres.py": "postgres",
    "runtime/loop.py": "fast",
}
"""The modules that import what only an extra brings; each works, or is left alone, without it."""

STANDARD = set(sys.stdlib_module_names) | {"annotationlib", "tomllib"}  # of later Pythons

WITH = {"pydantic-core": "pydantic", "referencing": "jsonschema"}
"""What is part of another's interface, and comes with it."""


def needed(lines: list[str]) -> set[str]:
    return {normal(Requirement(line).name) for line in lines}


INSTALLED = importlib.metadata.packages_distributions()
CORE = needed(PROJECT["dependencies"])
EXTRA = {name: needed(lines) for name, lines in PROJECT["optional-dependencies"].items()}


def imported(path: Path) -> Iterator[str]:
    """Yield the top-level names a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def distributions(path: Path) -> set[str]:
    """Return the distributions a module imports from, those of the standard library and of types left out."""
    names = set(imported(path)) - STANDARD - {"bf_plugin", "_typeshed"}
    found = {normal(INSTALLED.get(name, [name])[0]) for name in names}
    return {WITH.get(name, name) for name in found}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_is_imported_is_declared(path: Path) -> None:
    """A gateway that installs the package, with an extra where that is said, has all that it imports."""
    place = path.relative_to(PACKAGE).as_posix()
    extra = "testing" if place.startswith("testing/") else EXTRAS.get(place, "")
    brought = EXTRA.get(extra, set())

    assert distributions(path) <= CORE | brought
    assert place not in EXTRAS or distributions(path) & brought, "it needs the extra no more"


def test_the_extras_are_those_that_are_documented() -> None:
    """Each is named in the documents, as it is installed."""
    page = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))
    assert [name for name in EXTRA if f"bf_plugin[{name}]" not in page] == []
