"""What stands in `[plugins.guard]`, checked when it is loaded: every problem is named with its field."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from bf_plugin import ConfigurationError

from bf_hook_guard import terms
from bf_hook_guard.budgets import MILLION, Period, What
from bf_hook_guard.patterns import PatternRefused, follow
from bf_hook_guard.pii import KINDS
from bf_hook_guard.scanner import Ask, Rule, Scanner

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
    terms: list[str] | None = Field(None, min_length=1)
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
        return self

    def rules(self) -> Iterable[Rule]:
        """Make the rules, one a kind of personal data. Raises ValueError for a pattern or callback that cannot be."""
        ask = None if self.callback is None else _resolved(self.callback)
        action = {"replace": self.replace or "", "stop": self.stop, "mask": self.mask or ""}
        if not any(action.values()):
            action["mask"] = MASK
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
        problems = (f"{_place(problem['loc'])}: {problem['msg']}" for problem in error.errors(include_input=False))
        raise ConfigurationError(f"[plugins.guard] {'; '.join(problems)}") from None


def scanners(settings: GuardSettings) -> tuple[Mapping[str, Scanner | None], Scanner | None]:
    """Return the scanners of apps that rules name, and that of all others. Raises ConfigurationError."""
    made = {id(rule): _made(number, rule) for number, rule in enumerate(settings.rules)}

    def scanner(chosen: Iterable[RuleSettings]) -> Scanner | None:
        rules = [rule for one in chosen for rule in made[id(one)]]
        return Scanner(rules) if rules else None

    named = {app for rule in settings.rules for app in rule.apps or ()}
    by_app = {app: scanner(rule for rule in settings.rules if rule.is_for(app)) for app in sorted(named)}
    return by_app, scanner(rule for rule in settings.rules if rule.apps is None)


def _made(number: int, rule: RuleSettings) -> list[Rule]:
    try:
        return list(rule.rules())
    except PatternRefused as error:
        field = "pattern" if rule.pattern is not None else "terms"
        raise ConfigurationError(f"[plugins.guard] rules.{number}.{field} (rule {rule.name}) {error}") from None
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"[plugins.guard] rules.{number}.callback (rule {rule.name}): {error}") from None


def _resolved(name: str) -> Ask:
    function = pkgutil.resolve_name(name)
    if not callable(function) or inspect.iscoroutinefunction(function):
        raise ValueError(f"{name} is no plain function")
    ask: Ask = function
    return ask


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location)) or "section"
