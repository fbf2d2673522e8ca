"""Whether hooks look as they should: marked, and annotated as the specs are."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any, get_type_hints

from bf_plugin.plugins import hookspecs
from bf_plugin.plugins.guards import HOOKS
from bf_plugin.testing.conformance.report import Problem
from bf_plugin.testing.conformance.subject import Subject

_MISSING = inspect.Parameter.empty


def check_marked(subject: Subject) -> Iterator[Problem]:
    """Find functions that are named as a hook is and are not called, since nothing says that they are one."""
    marked = {attribute for attribute, *_ in subject.implementations()}
    for hook in HOOKS:
        if hook not in marked and inspect.isroutine(getattr(subject.plugin, hook, None)):
            yield Problem(
                plugin=subject.name, rule="marked", what=f"{hook} is not marked as a hook, so nobody calls it"
            )


def check_typed(subject: Subject) -> Iterator[Problem]:
    """Compare the annotations of each hook with those of its spec; a wider type than the spec's is fine."""
    for attribute, hook, function, options in subject.implementations():
        expected = get_type_hints(getattr(hookspecs, hook))
        given = _annotations(function)
        for name in (*inspect.signature(function).parameters, "return"):
            if problem := _problem(given.get(name, _MISSING), expected[name], name, options):
                text = f"the result of {attribute}" if name == "return" else f"{name} of {attribute}"
                yield Problem(plugin=subject.name, rule="typed", what=f"{text} {problem}")


def _annotations(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations as types, or as their text where they name what is imported for type checkers only."""
    try:
        return get_type_hints(function)
    except NameError:
        if sys.version_info >= (3, 14):
            import annotationlib

            return annotationlib.get_annotations(function, format=annotationlib.Format.STRING)
        return dict(inspect.get_annotations(inspect.unwrap(function)))


def _problem(given: Any, expected: Any, name: str, options: dict[str, Any]) -> str | None:
    if given is _MISSING:
        return "has no annotation"
    if name == "return" and (options.get("wrapper") or expected is object):
        return None  # a generator of whatever the hook returns
    return None if _fits(given, expected) else f"is annotated {_text(given)}, the hook has {_text(expected)}"


def _fits(given: Any, expected: Any) -> bool:
    if isinstance(given, str):
        wider = ("Any", "object") if isinstance(expected, type) else ("Any", "object", "StopReason", "str")
        return given.rpartition(".")[2] in (_text(expected), *wider)
    if given in (expected, Any, object):
        return True
    if isinstance(expected, type):
        return isinstance(given, type) and issubclass(expected, given)
    return given is str  # the one that is no class is a choice of strings


def _text(annotation: Any) -> str:
    if annotation is type(None):
        return "None"
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
