"""The written policy names everything it is about."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bf_plugin import Usage
from bf_plugin.gateway import events
from bf_plugin.plugins.entrypoints import GROUPS
from bf_plugin.plugins.guards import HOOKS

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "compatibility.md").read_text(encoding="utf-8")


def test_every_hook_group_and_event_is_named() -> None:
    """A new one is promised nothing before it stands here."""
    said = [
        events.thread_info("thread_1", "run_1"),
        events.delta("text", 0),
        events.function_call([]),
        events.error("message", "code", None),
        events.end("stop", Usage()),
    ]
    types = [event["type"] for event in said]
    assert [name for name in (*HOOKS, *GROUPS.values(), *types) if f"`{name}`" not in PAGE] == []


@pytest.mark.parametrize(
    "page", ["writing-hooks.md", "operating.md", "README.md", "../CHANGELOG.md", "../CONTRIBUTING.md"]
)
def test_whoever_relies_on_it_is_led_to_it(page: str) -> None:
    """Authors, operators and contributors each from their own page."""
    assert "compatibility.md)" in (DOCS / page).read_text(encoding="utf-8")


def test_the_links_of_the_documents_lead_somewhere() -> None:
    """Files, and headings in them, for all pages."""
    pages = [*DOCS.glob("*.md"), *DOCS.parent.glob("*.md"), *DOCS.parent.glob("hooks/**/*.md")]
    broken = []
    for page in pages:
        for target, anchor in re.findall(
            r"\]\((?!https?:)([^)#\s]*)(?:#([\w-]*))?\)", page.read_text(encoding="utf-8")
        ):
            path = (page.parent / target) if target else page
            if not path.exists() or (anchor and anchor not in headings(path)):
                broken.append(f"{page.name}: {target}#{anchor}")
    assert broken == []


def headings(page: Path) -> set[str]:
    """Return the anchors of a page, as GitHub makes them of headings."""
    found = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}
