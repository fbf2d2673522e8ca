"""What README.md says: its settings, its example, its table."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from bf_hook_filemaker.settings import Callback, DataApi, Section, Tool, read
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PAGE = (Path(__file__).resolve().parents[1] / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    """Return the page's examples in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_its_settings_are_valid(tmp_path: Path) -> None:
    """As they stand, but for the place of the password."""
    (tmp_path / "filemaker").write_text("open sesame")
    (text,) = blocks("toml")
    tables = tomllib.loads(text.replace("/run/secrets", str(tmp_path)))
    assert list(read(tables["plugins"]["filemaker"]).tools) == ["find_order"]


def test_its_example_passes(scripted: Any) -> None:
    """It is a test, and it is run."""
    (text,) = blocks("python")
    names: dict[str, Any] = {}
    exec(text, names)
    names["test_orders_are_found"](scripted)


@pytest.mark.parametrize(
    ("heading", "models", "elsewhere"),
    [
        ("Of `[plugins.filemaker]`:", (Section,), {"connections", "tools"}),
        ("Of a connection", (DataApi, Callback), set()),
        ("Of a tool", (Tool,), set()),
    ],
)
def test_its_tables_have_every_setting(heading: str, models: tuple[type[BaseModel], ...], elsewhere: set[str]) -> None:
    """Each with its default; nothing else."""
    table = PAGE.split(heading)[1].split("\n\n")[1]
    rows = {
        name: default
        for names, default in re.findall(r"^\| (`.*?) \| (.*?) \|", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", names)
    }
    fields = {name: field for model in models for name, field in model.model_fields.items()}
    assert rows.keys() == fields.keys() - elsewhere
    for name, default in rows.items():
        value = fields[name].default
        if value not in (None, PydanticUndefined) and default:
            shown = {True: "true", False: "false"}.get(value, value) if isinstance(value, bool) else value
            assert default.strip("`").strip('"') == (f"{shown:g}" if isinstance(shown, float) else str(shown)), name
