"""The rooms of the package, read from its sources: what each holds, and which imports lead out of it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import bf_plugin

PACKAGE = Path(bf_plugin.__file__).parent
AROUND = frozenset({"bench", "browser", "cli", "demo", "doctor", "testing"})
"""The rooms that stand around the core, and do not count as part of it."""


@dataclass(frozen=True)
class Module:
    """One source file; `name` is its dotted path inside the package, "" for the package itself."""

    name: str
    path: Path

    @property
    def room(self) -> str:
        """The folder directly below the package, or the module itself where there is none: `errors`, `values`."""
        return self.name.partition(".")[0] or "bf_plugin"

    @cached_property
    def source(self) -> str:
        """The text of the file."""
        return self.path.read_text(encoding="utf-8")

    @property
    def lines(self) -> int:
        """How many lines it has."""
        return len(self.source.splitlines())

    @cached_property
    def tree(self) -> ast.Module:
        """The module without what only type checkers read."""
        tree = ast.parse(self.source)
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = []
        return tree

    @property
    def is_signpost(self) -> bool:
        """Whether it only keeps a promised path: a docstring, imports, and the list of their names."""
        return all(
            isinstance(node, ast.Import | ast.ImportFrom)
            or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
            or (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__")
            for node in self.tree.body
        )

    def imports(self) -> Iterator[str]:
        """Yield the full name of everything it imports, wherever in the file: `from a import b` gives `a.b`."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules() -> list[Module]:
    """Return all modules of the package, sorted by name."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found.append(Module(".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return sorted(found, key=lambda module: module.name)


def rooms() -> dict[str, list[Module]]:
    """Return the modules of each room. A folder that only keeps promised paths is no room."""
    found: dict[str, list[Module]] = {}
    for module in modules():
        found.setdefault(module.room, []).append(module)
    return {room: inside for room, inside in found.items() if not all(module.is_signpost for module in inside)}


def arrows() -> dict[str, set[str]]:
    """Return, for each room, the other rooms that it imports from."""
    inside = rooms()
    found: dict[str, set[str]] = {room: set() for room in inside}
    for room, members in inside.items():
        for name in (name for module in members for name in module.imports()):
            package, _, rest = name.partition(".")
            target = rest.partition(".")[0]
            if package == "bf_plugin" and target:
                found[room].add(target if target in inside else "bf_plugin")
        found[room].discard(room)
    return found


def floors(graph: Mapping[str, set[str]]) -> dict[str, int]:
    """Return the floor of each room: 1 for one that imports no other, else one above the highest it imports from.

    Raises ValueError when rooms import each other in a circle.
    """
    found: dict[str, int] = {}
    while len(found) < len(graph):
        ready = {room for room, below in graph.items() if room not in found and below <= found.keys()}
        if not ready:
            raise ValueError(f"a circle among {sorted(graph.keys() - found.keys())}")
        found |= {room: 1 + max((found[other] for other in graph[room]), default=0) for room in ready}
    return found


def core() -> list[Module]:
    """Return the modules of the core."""
    return [module for module in modules() if module.room not in AROUND]
