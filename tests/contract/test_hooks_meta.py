"""Hooks as they are declared: specs and their docstrings, defaults, `hooks/`. Their page: test_docs_hooks.py."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import textwrap
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import pytest

from bf_plugin.plugins import hookspecs
from bf_plugin.plugins.calls import HookCalls
from bf_plugin.plugins.defaults import NAMES
from bf_plugin.plugins.guards import HOOKS, new_manager, register
from bf_plugin.plugins.loading import load_plugins
from bf_plugin.runtime.workers import Workers
from bf_plugin.testing import check_plugin, new_call, new_draft, new_outcome, new_run
from bf_plugin.values import Delta, ToolResult

ROOT = Path(__file__).parents[2]
DISTRIBUTIONS = sorted(path for path in (ROOT / "hooks").iterdir() if path.is_dir() and not path.name.startswith("."))
PARTS = ("*When*:", "*Thread*:", "*Result*:", "*If it raises*:", "*Example*::")


def spec(hook: str) -> Any:
    return getattr(hookspecs, hook)


def docstring_example(hook: str) -> str:
    return textwrap.dedent((inspect.getdoc(spec(hook)) or "").partition("*Example*::")[2])


def executed(source: str) -> ModuleType:
    """Run an example as a module of its own."""
    module = ModuleType("example")
    exec(compile(source, "example", "exec", dont_inherit=True), module.__dict__)
    return module


@pytest.fixture
def workers() -> Iterator[Workers]:
    """One thread."""
    pool = Workers("hooks", limit=1)
    yield pool
    pool.close()


# specs ---------------------------------------------------------------------------------------------------------------


def test_the_hooks_are_those_of_hookspecs() -> None:
    """The list that errors quote and the marked functions are the same."""
    marked = {name for name, _ in inspect.getmembers(new_manager().hook) if not name.startswith("_")}
    assert marked == set(HOOKS)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_spec_is_typed_and_explained(hook: str) -> None:
    """Each argument and the result have types; the docstring has the five parts, in order."""
    function = spec(hook)
    assert set(get_type_hints(function)) == {*inspect.signature(function).parameters, "return"}
    positions = [(function.__doc__ or "").find(part) for part in PARTS]
    assert -1 not in positions
    assert positions == sorted(positions)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_spec_has_an_example_that_runs(hook: str, workers: Workers) -> None:
    """The docstring's example is a plugin that implements the hook and can be called."""
    manager = new_manager()
    assert register(manager, "example", executed(docstring_example(hook))) == (hook,)
    call_all(HookCalls(manager, workers))


def call_all(calls: HookCalls) -> ToolResult:
    """Call each hook once, strictly: failures of the telling ones are logged as errors, which the caller checks."""
    calls.before_run(new_draft())
    calls.on_delta(new_run(), Delta("text", final=True))

    async def on_loop() -> ToolResult:
        result = await calls.on_tool_call(new_run(), new_call("add", {"a": 1, "b": 2}))
        calls.on_stop(new_run(), "stop")
        await calls.on_end(new_run(), new_outcome())
        return result

    return asyncio.run(on_loop())


@pytest.mark.parametrize("hook", HOOKS)
def test_every_example_of_a_spec_keeps_the_rules(hook: str) -> None:
    """What a docstring shows is copied."""
    check_plugin(executed(docstring_example(hook)), texts=["--"])


# defaults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_defaults_use_the_public_hook_api_only(name: str) -> None:
    """What a default can do, an installed plugin can do."""
    source = (ROOT / "bf_plugin" / "plugins" / "defaults" / f"{name}.py").read_text(encoding="utf-8")
    imported = {node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)}
    ours = {module for module in imported if module and module.startswith("bf_plugin")}
    assert ours <= {
        "bf_plugin",
        "bf_plugin.plugins.hookspecs",
        "bf_plugin.values",
        "bf_plugin.items",
        "bf_plugin.errors",
        "bf_plugin.runtime.logs",
    }


# hooks/ --------------------------------------------------------------------------------------------------------------


def test_nothing_in_hooks_can_be_imported() -> None:
    """`import hooks` must never mean this folder, nor may it be shipped."""
    assert [path.name for path in (ROOT / "hooks").iterdir() if path.suffix == ".py"] == []


@pytest.mark.parametrize("path", DISTRIBUTIONS, ids=lambda path: path.name)
def test_every_distribution_is_whole(path: Path) -> None:
    """Name, files, entry point and requirement are as hooks/README.md says, which lists it."""
    project = (path / "pyproject.toml").read_text(encoding="utf-8")
    assert re.fullmatch(r"bf-hook-[a-z0-9]+(-[a-z0-9]+)*", path.name)
    assert f'name = "{path.name}"' in project
    assert '"bf_plugin>=0.1,<1"' in project
    assert re.search(
        r'^\[project\.entry-points\.(bf_plugin|"bf_plugin\.(engines|messengers)")\]$', project, re.MULTILINE
    )
    assert all((path / name).is_file() for name in ("README.md", "tox.ini"))
    assert list((path / "tests").glob("test_*.py"))
    assert f"[{path.name}]({path.name})" in (ROOT / "hooks" / "README.md").read_text(encoding="utf-8")


def test_test_files_have_unique_names() -> None:
    """pytest runs all of them in one process."""
    names = [path.name for path in (ROOT / "hooks").glob("*/tests/test_*.py")]
    names += [path.name for path in (ROOT / "tests").glob("*/test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_installed_distributions_of_this_folder_keep_the_rules() -> None:
    """Those that are installed here are healthy: each is loaded, and has been through the check."""
    for name in {dist.name for dist in metadata.distributions()} & {path.name for path in DISTRIBUTIONS}:
        loaded = {
            report.name for report in load_plugins().reports if (report.distribution, report.status) == (name, "ok")
        }
        assert {conformance.name for conformance in check_plugin(name)} == loaded


def hooks_in(source: str) -> set[str]:
    """Return the hooks that a module implements: marked functions, and those of a toolbox."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and "hookimpl" in " ".join(map(ast.unparse, node.decorator_list)):
            found.add(node.name)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Toolbox":
            found.add("on_tool_call")
    return found


def test_every_hook_is_used_by_a_distribution() -> None:
    """Whoever wants to write one finds an example of it that is installed, tested and released."""
    sources = [path for folder in DISTRIBUTIONS for path in folder.rglob("*.py") if "tests" not in path.parts]
    used = {hook for path in sources for hook in hooks_in(path.read_text(encoding="utf-8"))}
    assert [hook for hook in HOOKS if hook not in used] == []


def test_the_template_of_new_hook_is_the_weather_distribution() -> None:
    """File by file: what `bf-plugin new-hook` makes is what is kept and tested here. To bring it up to date: copy."""
    weather, template = ROOT / "hooks" / "bf-hook-weather", ROOT / "bf_plugin" / "cli" / "template"
    made = re.compile(r"^(\.|build$|dist$|__pycache__$|.*\.egg-info$)")
    paths = [path.relative_to(weather) for path in weather.rglob("*") if path.is_file()]
    sources = {
        str(path): (weather / path).read_bytes() for path in paths if not any(made.match(part) for part in path.parts)
    }
    copies = {
        str(path.relative_to(template)).removesuffix(".txt"): path.read_bytes() for path in template.rglob("*.txt")
    }
    assert copies == sources
