"""What docs/operating.md says about settings, hosts and errors is so.

The tables of settings are made from the code: `pytest tests/contract/test_docs_operating.py` shows what to put there.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from pydantic import BaseModel

import bf_plugin
from bf_plugin.cli import COMMANDS, main
from bf_plugin.cli.doctor import doctor
from bf_plugin.doctor.finding import PARTS
from bf_plugin.doctor.gateway import ACTION
from bf_plugin.errors import NAMES
from bf_plugin.settings import SECRETS, AppSettings, AssistantSettings, Settings, load_settings
from bf_plugin.web.openapi import document

ROOT = Path(__file__).parents[2]
PACKAGE = Path(bf_plugin.__file__).parent
PAGE = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("hooks/**/*.md")]

NOT_SETTINGS = {"BF_API_KEYS_FILE", "BF_CHAOS_SIGNALS", "BF_MACHINE_EXAMPLES"}
"""What documents may name all the same: a file of another setting's, and what makes tests larger."""

FILE_ONLY = {"apps", "plugins"}
"""Fields that operators write into the apps file, not into the environment."""


def documented(model: type[BaseModel]) -> dict[str, str]:
    """Return the docstring of each field on one line, empty where there is none."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for statement, following in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            text = following.value if isinstance(following, ast.Expr) else None
            value = text.value if isinstance(text, ast.Constant) else ""
            if statement.target.id != "model_config":
                found[statement.target.id] = " ".join(str(value).split())
    return found


def default(model: type[BaseModel], name: str) -> str:
    """Return a field's default as an operator would write it."""
    field = model.model_fields[name]
    value: Any = None if field.is_required() else field.get_default(call_default_factory=True)
    if value in (None, "", [], {}):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def table(model: type[BaseModel], prefix: str) -> str:
    """Return the page's table of a model."""
    rows = [
        f"| `{prefix}{name.upper() if prefix else name}` | {default(model, name)} | {text} |".replace("|  |", "| |")
        for name, text in documented(model).items()
        if not (prefix and name in FILE_ONLY)
    ]
    return "\n".join(["| setting | default | what it does |", "|---|---|---|", *rows])


def between(mark: str) -> str:
    """Return what stands between two comments of the page."""
    found = re.search(rf"<!-- {mark}: .*?-->\n(.*?)<!-- end of {mark} -->", PAGE, re.DOTALL)
    assert found is not None
    return found[1].strip()


@pytest.mark.parametrize("model", [Settings, AppSettings])
def test_every_setting_has_a_docstring(model: type[BaseModel]) -> None:
    """A setting without a sentence is not documented anywhere."""
    without = [name for name, text in documented(model).items() if not text]
    assert without == []
    assert set(model.model_fields) == set(documented(model))


@pytest.mark.parametrize(("mark", "model", "prefix"), [("settings", Settings, "BF_"), ("apps", AppSettings, "")])
def test_the_tables_are_those_of_the_code(mark: str, model: type[BaseModel], prefix: str) -> None:
    """Names, defaults and sentences are those of the model."""
    assert between(mark) == table(model, prefix)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_name_only_settings_that_exist(document: Path) -> None:
    """A `BF_` name in a document is a setting, or the file variant of a secret."""
    names = {f"BF_{name.upper()}" for name in Settings.model_fields} | NOT_SETTINGS
    names |= {f"BF_{name.upper()}_FILE" for name in SECRETS}
    assert set(re.findall(r"\bBF_[A-Z_]*[A-Z]\b", document.read_text(encoding="utf-8"))) - names == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    """Files exist, and so do the headings that links name."""
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def hosts() -> Iterator[Any]:
    pattern = r"<!-- the lines are those of (\S+) -->\n```python\n(.*?)```"
    for file, lines in re.findall(pattern, PAGE, re.DOTALL):
        yield pytest.param(file, lines, id=Path(file).stem)


@pytest.mark.parametrize(("file", "lines"), list(hosts()))
def test_hosts_are_mounted_by_these_lines(file: str, lines: str) -> None:
    """What the page shows stands in the host that the tests serve, line by line, in this order."""
    there = iter((ROOT / file).read_text(encoding="utf-8").splitlines())
    for line in lines.splitlines():
        assert line in there, line
    if file.endswith("_app.py"):
        assert len(lines.splitlines()) == 3


def test_the_apps_file_of_the_page_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example is read, and means what the page says."""
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    file = tmp_path / "apps.toml"
    file.write_text(example, encoding="utf-8")
    monkeypatch.setenv("BF_APPS_FILE", str(file))

    settings = load_settings()

    assert set(settings.apps) == {"portal", "intranet"}
    assert len(settings.apps["portal"].api_keys) == 2
    assert isinstance(settings.apps["portal"].assistants["asst_support"], AssistantSettings)
    assert settings.apps["intranet"].max_runs == 20
    assert "weather" in settings.plugins


def test_every_path_is_listed() -> None:
    """What the served description describes stands in the table, method by method, and nothing else."""
    described = {
        f"{method.upper()} {path}"
        for path, operations in document()["paths"].items()
        for method in operations
        if method in ("get", "post", "delete")
    }
    section = PAGE.partition("## What is served")[2].partition("\n## ")[0]
    assert set(re.findall(r"`((?:GET|POST|DELETE) /\S+)`", section)) == described


def test_every_command_is_listed() -> None:
    """The table of commands is that of `bf-plugin --help`, and each command is there."""
    section = PAGE.partition("## Commands")[2].partition("\n### ")[0]
    assert re.findall(r"^\| `bf-plugin ([\w-]+)` \|", section, re.MULTILINE) == sorted(COMMANDS)
    modules = {path.stem for path in (PACKAGE / "cli").glob("*.py")}
    assert {name.replace("-", "_") for name in COMMANDS} <= modules
    for name in COMMANDS:
        assert CliRunner().invoke(main, [name, "--help"]).exit_code == 0


def test_the_doctors_options_are_listed() -> None:
    """The page's table has those that the command takes, with the advice on each."""
    section = PAGE.partition("### Checking an installation")[2].partition("\n## ")[0]
    options = {option.opts[0] for option in doctor.params if isinstance(option, click.Option)}
    assert set(re.findall(r"^\| `(--[\w-]+)", section, re.MULTILINE)) == options
    assert ACTION in section
    assert [word for word in PARTS if f"| {word} |" in section] == list(PARTS)


def codes_in(source: str) -> set[str]:
    """Return the error codes a module can send to a page."""
    found = re.findall(r'RunFailed\(\s*"([a-z_]+)"', source)
    found += re.findall(r'^LOST\w* = "([a-z_]+)"', source, re.MULTILINE)
    found += re.findall(r'"code": (?:\w+\.code or )?"([a-z_]+)"', source)
    return {*found, *re.findall(r'code ?= ?(?:\w+(?:\.\w+)? or )?"([a-z_]+)"', source)}


def test_every_error_code_is_explained() -> None:
    """Each code that the core sends stands in the table of error events, and no other does."""
    core = [path for path in PACKAGE.rglob("*.py") if not {"testing", "demo", "cli"} & set(path.parts)]
    sent = set().union(*(codes_in(path.read_text(encoding="utf-8")) for path in core))
    section = PAGE.partition("### `error` events of a run")[2].partition("###")[0]
    assert set(re.findall(r"^\| `([a-z_]+)` \|", section, re.MULTILINE)) == sent


def test_every_status_is_explained() -> None:
    """Each status that errors have stands in the table of answers."""
    section = PAGE.partition("### Answers to a start")[2].partition("###")[0]
    assert [int(status) for status in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)] == sorted(NAMES)


def test_messages_of_the_troubleshooting_table_exist() -> None:
    """What an operator looks up is what the code says."""
    section = PAGE.partition("### When it does not start")[2].partition("###")[0]
    source = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    said = re.sub(r'"\s*\n\s*f?"', "", source)
    messages = [
        message for row in re.findall(r"^\| (`.*?`) \|", section, re.MULTILINE) for message in row.split("`, `")
    ]
    assert len(messages) > 10
    for message in messages:
        text = message.strip("`").replace("...", "").strip(": ")
        assert text in said or text == "BF_", text
