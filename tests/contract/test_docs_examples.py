"""The README's examples run, and its commands are those of CI."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

from bf_plugin import Application, Toolbox

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"


def gateway(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("404 Not Found", [("Content-Length", "0")])
    return [b""]


def test_the_readme_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Python, top to bottom, in an application that has a module `gateway`."""
    module = ModuleType("gateway")
    module.application = gateway  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gateway", module)

    document = Sybil(parsers=[PythonCodeBlockParser()]).parse(README)
    examples = list(document.examples())
    for example in examples:
        example.evaluate()

    assert len(examples) == 2
    assert isinstance(document.namespace["application"], Application)
    tools = document.namespace["tools"]
    assert isinstance(tools, Toolbox)
    assert list(tools.bf_tools()) == ["order_status"]
    assert document.namespace["order_status"](1001) == "shipped"


def test_ci_runs_the_readmes_test_command() -> None:
    """CI runs the second command of the README as it stands there."""
    commands = re.findall(r"^python3 -m venv .*$", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(commands) == 2
    assert commands[0].endswith("bf-plugin demo")
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert f"readme='{commands[1]}'" in script
    assert 'bash -c "$readme"' in script


def test_the_documents_are_all_listed() -> None:
    """docs/README.md links every page of the folder."""
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert set(re.findall(r"\]\((\w[\w-]*\.md)\)", index)) == pages
