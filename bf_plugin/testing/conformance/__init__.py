"""Whether a plugin keeps the rules for plugins: `check_plugin`, for tests of plugins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bf_plugin.testing.conformance.bench import Bench
from bf_plugin.testing.conformance.check import check_candidate
from bf_plugin.testing.conformance.report import RULES, Conformance, NotConforming, Problem
from bf_plugin.testing.conformance.subject import candidates

__all__ = ["RULES", "Conformance", "NotConforming", "Problem", "check_plugin"]


def check_plugin(
    plugin: object,
    *,
    section: Mapping[str, Any] | None = None,
    draft: Mapping[str, Any] | None = None,
    texts: Sequence[str] = (),
    examples: int = 100,
) -> tuple[Conformance, ...]:
    """Check a plugin against the rules for plugins; raises NotConforming, which names each it breaks and the fix.

    `plugin` is what `mount` takes, an object or a factory, or the name of an installed distribution, of which all is
    checked that it offers. Hooks are called for real, but for tools: `on_tool_call` is asked for one that nobody has.
    A factory gets the settings `section`, a store in memory and an event loop. `draft` changes the run
    (`{"metadata": {...}}`); `texts` are those that `on_delta` looks for, cut anywhere in `examples` ways.
    """
    with Bench(section or {}, draft or {}, texts, examples) as bench:
        found = tuple(check_candidate(candidate, bench) for candidate in candidates(plugin))
    if problems := [problem for conformance in found for problem in conformance.problems]:
        raise NotConforming(problems)
    return found
