"""The public names: sorted, there, explained, and light to import."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import bf_plugin
import bf_plugin.testing

ROOT = Path(__file__).parents[2]

HEAVY = ("aiohttp", "cryptography", "falcon", "jsonschema", "openai", "requests", "sqlalchemy", "waitress")
"""What costs a gateway's start: loaded with the first request, or when it is needed."""


PACKAGES = pytest.mark.parametrize("package", [bf_plugin, bf_plugin.testing], ids=lambda package: package.__name__)


def imported(package: ModuleType) -> dict[str, tuple[str, ...]]:
    """Return what type checkers see: the names imported from each module of the package, as its source has them."""
    tree = ast.parse(inspect.getsource(package))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    ours = {node.module.removeprefix(f"{package.__name__}."): node for node in found if node.module}
    return {
        module: tuple(alias.name for alias in node.names)
        for module, node in ours.items()
        if module not in ("__future__", "typing")
    }


@PACKAGES
def test_the_names_are_sorted_and_complete(package: ModuleType) -> None:
    """`__all__` is sorted, all of it can be had, and type checkers and Python find it in the same modules."""
    assert package.__all__ == sorted(package.__all__)
    assert imported(package) == package._MODULES
    assert sorted(name for names in package._MODULES.values() for name in names) == package.__all__
    assert [name for name in package.__all__ if not hasattr(package, name)] == []
    assert set(package.__all__) < set(dir(package))


@PACKAGES
def test_what_is_not_there_is_an_attribute_error(package: ModuleType) -> None:
    """As from any module: `hasattr` and `from ... import` rely on it."""
    assert not hasattr(package, "nothing_of_that_name")
    with pytest.raises(ImportError, match="nothing_of_that_name"):
        exec(f"from {package.__name__} import nothing_of_that_name")


@pytest.mark.parametrize(("package", "page"), [(bf_plugin, "README.md"), (bf_plugin.testing, "testing.md")])
def test_the_names_are_documented(package: ModuleType, page: str) -> None:
    """Each is listed with the first line of its docstring, and no other."""
    table = (ROOT / "docs" / page).read_text(encoding="utf-8").partition("## Public names")[2]
    first_lines = {name: (inspect.getdoc(getattr(package, name)) or "").partition("\n")[0] for name in package.__all__}
    assert dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE)) == first_lines


def loaded_after(statement: str) -> tuple[set[str], int]:
    """Return which modules a statement loads in a fresh interpreter, and how many threads run then."""
    script = (
        f"{statement}; import json, sys, threading; print(json.dumps([list(sys.modules), threading.active_count()]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    modules, threads = json.loads(done.stdout)
    return set(modules), threads


def test_importing_is_light() -> None:
    """A gateway that imports all names loads none of the heavy libraries, starts nothing and logs nothing."""
    modules, threads = loaded_after("from bf_plugin import *")
    assert "bf_plugin.web.mount" in modules
    assert modules & set(HEAVY) == set()
    assert threads == 1


def test_the_pytest_plugin_loads_nothing_of_the_package() -> None:
    """pytest loads it in every project where bf_plugin is installed, and before coverage is measured."""
    modules, _ = loaded_after("import bf_plugin.testing.pytest_plugin")
    ours = {module for module in modules if module.startswith("bf_plugin")}
    assert ours == {"bf_plugin", "bf_plugin.testing", "bf_plugin.testing.pytest_plugin"}
    assert modules & {*HEAVY, "hypothesis", "pydantic", "msgspec"} == set()


def test_mounting_starts_nothing() -> None:
    """`mount` itself touches neither the disk nor the network; the first request, or `start`, does."""
    script = (
        "import pathlib, sys, threading; from bf_plugin import mount; mount(lambda environ, start_response: []);"
        f"print([name for name in {HEAVY!r} if name in sys.modules], threading.active_count())"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.split() == ["[]", "1"]
