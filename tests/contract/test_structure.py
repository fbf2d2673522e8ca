"""The shape of the package: its rooms, their floors, the size of a module, and what docs/design.md says of them."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from bf_plugin.journal.states import NEXT_STATES
from rooms import AROUND, PACKAGE, arrows, core, floors, modules, rooms

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DESIGN = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
DECISIONS = ROOT / "docs" / "decisions"

ROOMS, FLOORS = 22, 12
MODULE_LINES = 300
CORE_LINES = 16_500
BOOK_LINES = 4_700

LAYERS = [
    [room.strip().removeprefix("bf_plugin.") for room in layer.split(":")]
    for layer in PROJECT["tool"]["importlinter"]["contracts"][0]["layers"]
]
"""The floors that import-linter checks, the highest first."""


def section(heading: str) -> str:
    """Return what stands under a heading of docs/design.md."""
    return DESIGN.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the tables under a heading, without the head of each."""
    lines = [line for line in section(heading).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    heads = {number for number, row in enumerate(cells) if set("".join(row)) == {"-"}}
    return [row for number, row in enumerate(cells) if not {number, number + 1} & heads]


# rooms ---------------------------------------------------------------------------------------------------------------


def test_the_rooms_are_few_and_low() -> None:
    """A reader learns them in an hour; `floors` refuses a circle, and so an arrow that points up."""
    found = floors(arrows())
    assert len(found) <= ROOMS
    assert max(found.values()) <= FLOORS


def test_every_room_has_its_layer() -> None:
    """import-linter says nothing of a room that it does not know. The package itself cannot be a layer."""
    assert sorted(room for layer in LAYERS for room in layer) == sorted(rooms().keys() - {"bf_plugin"})


def test_every_arrow_points_to_a_lower_layer() -> None:
    """The same as import-linter finds, over whole rooms, inside functions too."""
    height = {room: -number for number, layer in enumerate(LAYERS) for room in layer}
    up = [
        f"{room} -> {other}"
        for room, below in arrows().items()
        for other in below
        if {room, other} <= height.keys() and height[other] >= height[room]
    ]
    assert up == []


def test_the_picture_shows_the_rooms_on_their_floors() -> None:
    """docs/design.md draws a line a floor, with the rooms that pyproject.toml has there."""
    drawn = re.findall(r"^ *(\d+) +([a-z, ]+?) {2,}", section("The picture"), re.MULTILINE)
    assert [int(number) for number, _ in drawn] == list(range(len(LAYERS), 0, -1))
    assert [sorted(names.split(", ")) for _, names in drawn] == [sorted(layer) for layer in LAYERS]


@pytest.mark.parametrize("room", sorted(rooms().keys() - {"bf_plugin"}))
def test_every_room_is_introduced(room: str) -> None:
    """The docstring of a room says what it is, and the picture's table has a line of it."""
    opening = next(module for module in modules() if module.name == room)
    assert opening.source.startswith('"""')
    assert [row for row in rows("The picture") if row[0].strip("`") == room], f"{room} is not in the table"


def test_the_arrows_between_rooms_are_documented() -> None:
    """A new one is a decision. The two lowest floors are left out: any room may import from them."""
    lowest = {room for layer in LAYERS[-2:] for room in layer}
    told = {row[0].strip("`"): set(re.findall(r"`(\w+)`", row[2])) for row in rows("The picture")}
    assert told == {room: below - lowest for room, below in arrows().items() if room != "bf_plugin"}


# sizes ---------------------------------------------------------------------------------------------------------------


def test_a_module_fits_the_head() -> None:
    """One noun, a few pages at most. `browser/handler.js` is one file, since pages load one."""
    assert {module.name: module.lines for module in modules() if module.lines > MODULE_LINES} == {}


def test_the_core_stays_small() -> None:
    """Who adds a feature looks for what it makes needless."""
    assert sum(module.lines for module in core()) <= CORE_LINES


def test_the_rooms_around_the_core_exist() -> None:
    """A renamed one must not count as part of the core unseen."""
    assert {module.room for module in modules()} >= AROUND


# names ---------------------------------------------------------------------------------------------------------------


def test_no_module_is_named_like_a_package_we_depend_on() -> None:
    """`requests.py` would leave a reader to guess which is meant. An engine's folder has the name of its provider."""
    extras = PROJECT["project"]["optional-dependencies"].values()
    needed = [*PROJECT["project"]["dependencies"], *(line for lines in extras for line in lines)]
    imported = {name.partition(".")[0] for module in modules() for name in module.imports()}
    taken = {Requirement(line).name.lower().replace("-", "_") for line in needed} | imported
    files = [module for module in modules() if module.path.name != "__init__.py"]
    assert [module.name for module in files if module.path.stem in taken] == []


# states --------------------------------------------------------------------------------------------------------------


def test_the_states_of_a_run_are_documented() -> None:
    """Each with those that may follow it."""
    table = {row[0].strip("`"): re.findall(r"`(\w+)`", row[2]) for row in rows("The states of a run")}
    assert table == {state: list(following) for state, following in NEXT_STATES.items()}


# the glossary --------------------------------------------------------------------------------------------------------


def test_the_nouns_of_the_glossary_exist() -> None:
    """Where the glossary says which class or module stands for a word, that is there."""
    missing = []
    for word, *_, places in rows("Glossary"):
        for place in re.findall(r"`([\w.]+)`", places):
            if not exists(place):
                missing.append(f"{word}: {place}")
    assert missing == []


def exists(place: str) -> bool:
    """Tell whether a dotted path below the package is a module, or a name in one."""
    module, _, name = place.rpartition(".")
    try:
        return hasattr(importlib.import_module(f"bf_plugin.{module}".rstrip(".")), name)
    except ImportError:
        return False


def test_the_glossary_explains_a_word_once() -> None:
    """One word, one thing."""
    words = [row[0] for row in rows("Glossary")]
    assert words == sorted(set(words), key=str.lower)


# the book ------------------------------------------------------------------------------------------------------------


def chapters() -> dict[str, int]:
    """Return the files of the book with the lines that docs/design.md says they have."""
    return {path.strip("`"): int(lines) for _, path, _, lines in rows("The book")}


def test_the_book_has_all_that_a_run_is_made_of() -> None:
    """Every file of it exists, and every module of use cases, run and dispatch is a chapter."""
    read = {PACKAGE / path for path in chapters()}
    needed = {
        module.path for module in modules() if module.room in ("usecases", "run", "dispatch") and not module.is_signpost
    }
    assert [path for path in read if not path.is_file()] == []
    assert needed - read == set()


def test_the_book_says_how_long_it_is() -> None:
    """Each chapter within a tenth or 15 lines, the sum within a tenth; and it stays an afternoon's reading."""
    stated = chapters()
    real = {path: len((PACKAGE / path).read_text(encoding="utf-8").splitlines()) for path in stated}
    assert {path: real[path] for path in stated if abs(real[path] - stated[path]) > max(15, real[path] / 10)} == {}
    (total,) = re.findall(r"([\d,]+) lines in all", section("The book"))
    assert abs(int(total.replace(",", "")) - sum(real.values())) <= sum(real.values()) / 10
    assert sum(real.values()) <= BOOK_LINES


# decisions -----------------------------------------------------------------------------------------------------------


def records() -> list[Path]:
    """Return the decision records."""
    return sorted(path for path in DECISIONS.glob("*.md") if path.name != "README.md")


def test_the_index_lists_every_decision() -> None:
    """In the order of their numbers, under the titles that they have, each number once."""
    index = (DECISIONS / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| (\d{4}) \| \[(.+)\]\((.+)\) \|", index, re.MULTILINE)
    titled = [
        (path.name[:4], path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# "), path.name)
        for path in records()
    ]
    assert listed == titled
    assert len({number for number, _, _ in listed}) == len(listed)


@pytest.mark.parametrize("path", records(), ids=lambda path: path.stem)
def test_every_decision_has_the_same_form(path: Path) -> None:
    """A page at most, with the four questions that a reader comes with."""
    text = path.read_text(encoding="utf-8")
    headings = ["What we decided", "Why", "What it costs", "What would change our mind"]
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == headings
    assert len(text.splitlines()) <= 60


def test_the_documents_quote_files_that_exist() -> None:
    """A path of the package in a document is one of its files or folders."""
    pages = [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), ROOT / "hooks" / "README.md"]
    broken = [
        f"{page.name}: {path}"
        for page in pages
        for path in re.findall(r"`(bf_plugin/[\w./-]*)`", page.read_text(encoding="utf-8"))
        if not (ROOT / path).exists()
    ]
    assert broken == []


def test_the_changes_that_have_a_room_name_tests_that_exist() -> None:
    """`Where a change goes` names a room and a test for each; both are there."""
    inside = rooms()
    for change, room, _, test in rows("Where a change goes"):
        assert room.strip("`") in inside, change
        for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", test):
            assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), change
        assert "::" in test, change
