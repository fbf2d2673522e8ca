"""What installed distributions offer. `loading` finds and loads them one by one: a broken one fails alone."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from packaging.requirements import Requirement

from bf_plugin.errors import ConfigurationError, PluginError
from bf_plugin.runtime.logs import in_short

Kind = Literal["plugin", "engine", "messenger"]

GROUPS: Mapping[Kind, str] = {
    "plugin": "bf_plugin",
    "engine": "bf_plugin.engines",
    "messenger": "bf_plugin.messengers",
}
CORE = "bf-plugin"
"""The normalised name of our own distribution, whose engines and messengers are the built-in ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Something to load: an entry point of a distribution, or an object given in code (no distribution)."""

    kind: Kind
    name: str
    entry: importlib.metadata.EntryPoint | None = None
    given: object = None

    @property
    def distribution(self) -> str | None:
        """The name of the distribution, as it spells it."""
        return self.entry.dist.name if self.entry and self.entry.dist else None

    @property
    def version(self) -> str | None:
        """The version of the distribution."""
        return self.entry.dist.version if self.entry and self.entry.dist else None

    @property
    def built_in(self) -> bool:
        """Whether it comes with bf_plugin itself."""
        return normal(self.distribution or "") == CORE

    def load(self) -> Any:
        """Import it. Raises PluginError if that fails, or if its distribution needs another version of bf_plugin."""
        if self.entry is None:
            return self.given
        try:
            if problem := _incompatible(self.entry.dist):
                raise PluginError(self.name, problem)
            return self.entry.load()
        except PluginError:
            raise
        except (Exception, SystemExit) as error:
            raise PluginError(self.name, f"cannot be imported: {in_short(error)}") from error


def find(kind: Kind) -> list[Candidate]:
    """Return what is installed of a kind, in the order of distribution and name."""
    entries = importlib.metadata.entry_points(group=GROUPS[kind])
    found = [Candidate(kind=kind, name=entry.name, entry=entry) for entry in entries]
    return sorted(found, key=lambda candidate: (normal(candidate.distribution or ""), candidate.name))


def choose(candidates: Sequence[Candidate], choices: Mapping[str, str]) -> dict[str, Candidate]:
    """Return the one to use for each name: the chosen distribution's, else the only one that is not built in.

    Raises ConfigurationError where that is not one.
    """
    names = sorted({candidate.name for candidate in candidates} | set(choices))
    return {name: _choose(name, [c for c in candidates if c.name == name], choices.get(name)) for name in names}


def _choose(name: str, candidates: Sequence[Candidate], choice: str | None) -> Candidate:
    offered = ", ".join(candidate.distribution or "?" for candidate in candidates)
    if choice is not None:
        for candidate in candidates:
            if normal(candidate.distribution or "") == normal(choice):
                return candidate
        raise ConfigurationError(
            f"BF_ENGINES: {choice} is not installed or has no engine {name} (from: {offered or 'none'})"
        )
    best = [candidate for candidate in candidates if not candidate.built_in] or list(candidates)
    if len(best) > 1:
        kind = best[0].kind
        advice = f"choose with BF_ENGINES={name}=DISTRIBUTION" if kind == "engine" else "uninstall all but one"
        raise ConfigurationError(f"several distributions have {kind} {name} ({offered}): {advice}")
    return best[0]


def normal(name: str) -> str:
    """Return a distribution's name in the form that all its spellings share (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _incompatible(distribution: importlib.metadata.Distribution | None) -> str | None:
    """Return why our version is not the one a distribution needs. Installers check that, but can be overruled."""
    ours = _our_version()
    for line in (distribution.requires if distribution and ours else None) or ():
        requirement = Requirement(line)
        if normal(requirement.name) != CORE or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        if not requirement.specifier.contains(ours or "", prereleases=True):
            return f"needs bf_plugin{requirement.specifier}, this is {ours}"
    return None


def _our_version() -> str | None:
    """Return the version of bf_plugin, None where it runs from a source tree that was never installed."""
    try:
        return importlib.metadata.version(CORE)
    except importlib.metadata.PackageNotFoundError:
        return None
