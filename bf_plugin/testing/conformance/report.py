"""The rules a plugin keeps, and what is said of one that does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

RULES: Mapping[str, str] = {
    "loads": "see that it can be imported and its factory called; settings it cannot do without go into `section`",
    "offline": "keep the context in the factory, and use its store and run_async in hooks only",
    "requirement": "say which releases it is made for: dependencies = ['bf_plugin>=0.1,<1']",
    "port": "implement the port as bf_plugin.engines.port or bf_plugin.messengers.port has it",
    "hooks": "use names and arguments as docs/writing-hooks.md has them",
    "marked": "put @hookimpl above it, or give it another name",
    "typed": "annotate it as docs/writing-hooks.md has it, so that a type checker can compare the two",
    "ordinary": "let it get through an ordinary run without raising; RunRejected and StopRun are for refusing",
    "own-calls": "return None for the calls of other tools",
    "contained": "raise nothing but Exceptions",
    "signals": "let a wrapper raise again what it is sent: a guard that failed must not let text through",
    "loop": "mark the on_delta @in_thread, or do what blocks in another hook",
    "splitting": "hold back what may go on in the next piece (`run.scratch`), and let it go when `delta.final` is true",
    "replay": "decide by the text alone, and remember what came before in `run.scratch` only",
    "closes": "let `aclose` and `close` end in time and without raising",
}
"""What each rule asks for, by its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A rule that a plugin breaks: which, where, and what to do."""

    plugin: str
    rule: str
    what: str

    def __str__(self) -> str:
        return f"plugin {self.plugin} breaks the rule {self.rule!r}: {self.what}\n    To fix it: {RULES[self.rule]}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Conformance:
    """What `check_plugin` found out about a plugin, engine or messenger.

    `on_delta_us` is what its `on_delta` takes for a piece of 40 characters, in microseconds, None without one.
    """

    name: str
    hooks: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    on_delta_us: float | None = None


class NotConforming(AssertionError):
    """A plugin breaks rules; the message names each with its fix."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n" + "\n".join(map(str, problems)))
        self.problems = tuple(problems)
