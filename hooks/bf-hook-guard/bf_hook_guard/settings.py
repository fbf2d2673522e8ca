"""What stands in `[plugins.guard]`, checked when it is loaded: every problem is named with its field."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from bf_hook_guard import terms
from bf_hook_guard.atoms import PatternRefused
from bf_hook_guard.budgets import MILLION, Period, What
from bf_hook_guard.patterns import follow
from bf_hook_guard.pii import KINDS
from bf_hook_guard.scanner import Ask, Rule, Scanner
from bf_plugin import ConfigurationError

MASK = "█"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    apps: list[str] | None = Field(None, min_length=1)
    """The apps this is for, by name; without it, for every app."""

    def is_for(self, app: str) -> bool:
        """Tell whether it is for an app."""
        return self.apps is None or app in self.apps


class RuleSettings(_Table):
    """A rule for the text: what it finds (one of `pattern`, `terms`, `pii`), and what is done about it."""

    name: str = Field(pattern=r"^[\w.-]{1,60}$")
    pattern: str | None = Field(None, min_length=1)
    """A regular expression of Python's `re`, with a longest match."""
    terms: list[Annotated[str, Field(max_length=200)]] | None = Field(None, min_length=1)
    """Whole words, or several with white space between."""
    pii: list[Literal["email", "phone", "card", "iban"]] | None = Field(None, min_length=1)
    """Kinds of personal data."""
    ignore_case: bool = True
    """Whether `pattern` and `terms` take capital and small letters for the same."""
    callback: str | None = None
    """`package.module.function`, asked about each match with its text and the run."""
    replace: str | None = Field(None, min_length=1)
    """What is put in the place of a match."""
    mask: str | None = Field(None, min_length=1, max_length=1)
    """What is put in the place of each of its characters; this is the default."""
    stop: bool = False
    """Whether a match ends the run, with `finish_reason` `content_filter`."""
    reason: str | None = Field(None, min_length=1, max_length=500)
    """What the page is told of a stop, in an `error` event; the run has failed then, with `finish_reason` `error`."""

    @field_validator("terms")
    @classmethod
    def _have_letters(cls, given: list[str] | None) -> list[str] | None:
        if given is not None and any(not term.strip() for term in given):
            raise ValueError("a term must not be empty")
        return given

    @model_validator(mode="after")
    def _one_of_each(self) -> RuleSettings:
        finds = [name for name in ("pattern", "terms", "pii") if getattr(self, name) is not None]
        if len(finds) != 1:
            raise ValueError(f"give one of pattern, terms and pii, not {' and '.join(finds) or 'none of them'}")
        does = [name for name in ("replace", "mask", "stop") if getattr(self, name)]
        if len(does) > 1:
            raise ValueError(f"give one of replace, mask and stop, not {' and '.join(does)}")
        if self.reason is not None and not self.stop:
            raise ValueError("a reason is given for a stop: add stop = true")
        return self

    def rules(self, ask: Ask | None) -> Iterable[Rule]:
        """Make the rules, one a kind of personal data; `ask` is the callback. Raises PatternRefused."""
        mask = self.mask or ("" if self.replace or self.stop else MASK)
        action: dict[str, Any] = {
            "replace": self.replace or "",
            "mask": mask,
            "stop": self.stop,
            "reason": self.reason or "",
        }
        if self.pii is not None:
            for kind in (KINDS[name] for name in self.pii):
                yield Rule(name=self.name, pattern=follow(kind.pattern), check=kind.check, ask=ask, **action)
            return
        source = self.pattern or terms.pattern_of(self.terms or (), ignore_case=self.ignore_case)
        yield Rule(name=self.name, pattern=follow(source, ignore_case=self.ignore_case), ask=ask, **action)


class LimitSettings(_Table):
    """What each app may use in a period; every app counts for itself."""

    period: Period
    """Periods are those of the clock, in UTC; weeks begin on Monday."""
    runs: int | None = Field(None, ge=0)
    """Starts."""
    tokens: int | None = Field(None, ge=0)
    """Tokens of prompts and answers together, as the provider counts them."""
    cost: float | None = Field(None, ge=0, allow_inf_nan=False)
    """In the currency of `prices`."""

    @model_validator(mode="after")
    def _limits_something(self) -> LimitSettings:
        if self.runs is self.tokens is self.cost is None:
            raise ValueError("give at least one of runs, tokens and cost")
        return self

    def amounts(self) -> dict[What, int]:
        """Return what is limited, as it is counted."""
        cost = None if self.cost is None else round(self.cost * MILLION)
        given: dict[What, int | None] = {"runs": self.runs, "tokens": self.tokens, "cost": cost}
        return {what: amount for what, amount in given.items() if amount is not None}


class Price(BaseModel):
    """What a million tokens of a model cost."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: float = Field(ge=0, allow_inf_nan=False)
    completion: float = Field(ge=0, allow_inf_nan=False)


class GuardSettings(BaseModel):
    """All of the section."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    rules: list[RuleSettings] = []
    limits: list[LimitSettings] = []
    prices: dict[str, Price] = {}
    """By model; `"*"` is for those that are not listed."""
    in_thread: bool = False
    """Whether a callback blocks, so that the text is gone through in a worker thread."""

    @field_validator("rules")
    @classmethod
    def _differ(cls, given: list[RuleSettings]) -> list[RuleSettings]:
        names = [rule.name for rule in given]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"there are two rules of the name {', '.join(twice)}")
        return given

    @model_validator(mode="after")
    def _costs_have_prices(self) -> GuardSettings:
        if any(limit.cost is not None for limit in self.limits) and not self.prices:
            raise ValueError("limits.cost needs prices: what a million tokens of each model cost")
        return self


def load(section: Mapping[str, Any]) -> GuardSettings:
    """Read the section. Raises ConfigurationError that names each field that is wrong."""
    try:
        return GuardSettings.model_validate(dict(section))
    except ValidationError as error:
        problems = (
            f"{_place(problem['loc'])}: {problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors(include_input=False)
        )
        raise ConfigurationError(f"[plugins.guard] {'; '.join(problems)}") from None


def scanners(settings: GuardSettings) -> tuple[Mapping[str, Scanner | None], Scanner | None]:
    """Return the scanners of apps that rules name, and that of all others. Raises ConfigurationError."""
    made = {rule.name: _made(number, rule) for number, rule in enumerate(settings.rules)}

    def scanner(chosen: Iterable[RuleSettings]) -> Scanner | None:
        rules = [rule for one in chosen for rule in made[one.name]]
        return _together(rules, list(made)) if rules else None

    named = {app for rule in settings.rules for app in rule.apps or ()}
    by_app = {app: scanner(rule for rule in settings.rules if rule.is_for(app)) for app in sorted(named)}
    return by_app, scanner(rule for rule in settings.rules if rule.apps is None)


def _made(number: int, rule: RuleSettings) -> list[Rule]:
    try:
        return list(rule.rules(None if rule.callback is None else _resolved(rule.callback)))
    except PatternRefused as error:
        field = "pattern" if rule.pattern is not None else "terms"
        raise ConfigurationError(f"[plugins.guard] rules.{number}.{field} (rule {rule.name}) {error}") from None
    except _NotResolved as error:
        raise ConfigurationError(f"[plugins.guard] rules.{number}.callback (rule {rule.name}): {error}") from error


def _together(rules: Sequence[Rule], names: Sequence[str]) -> Scanner:
    """Compile rules together; `names` are those of all rules, in their order."""
    try:
        return Scanner(rules)
    except RecursionError:
        if len(rules) == 1:
            place = f"rules.{names.index(rules[0].name)}"
            what = f"(rule {rules[0].name}) has too many parts to be followed: split it into several rules"
            raise ConfigurationError(f"[plugins.guard] {place} {what}") from None
    for rule in rules:
        _together([rule], names)
    raise ConfigurationError("[plugins.guard] rules: there are too many to be followed together")


class _NotResolved(Exception):
    """A callback that cannot be imported, or called."""


def _resolved(name: str) -> Ask:
    try:
        function = pkgutil.resolve_name(name)
    except Exception as error:  # whatever its module raises while it is imported
        raise _NotResolved(str(error) or type(error).__name__) from error
    if not callable(function) or inspect.iscoroutinefunction(function):
        raise _NotResolved(f"{name} is no plain function")
    ask: Ask = function
    return ask


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location)) or "section"
