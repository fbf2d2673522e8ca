"""Toolbox: what a model is shown, what a function gets, what becomes of its answer."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from bf_plugin import testing
from bf_plugin.plugins.toolanswers import NotJSON, answer_text
from bf_plugin.plugins.toolbox import Toolbox
from bf_plugin.plugins.toolschema import read_docstring
from bf_plugin.testing import new_run
from bf_plugin.values import Run, RunDraft, ToolCall, ToolOptions, ToolResult


class Place(BaseModel):
    """Where."""

    city: str
    country: str = "US"


def new_draft(*tools: Any) -> RunDraft:
    return testing.new_draft(tools=list(tools))


def ask(toolbox: Toolbox, name: str, /, **arguments: Any) -> Any:
    """Call a tool as the hook facade would."""
    call = ToolCall(id="call_1", name=name, arguments=arguments, idempotency_key="key_1")
    return toolbox.on_tool_call(run=new_run(), call=call)


@pytest.fixture
def weather() -> Toolbox:
    """A toolbox with one tool."""
    toolbox = Toolbox("weather")

    @toolbox.tool(timeout=5, idempotent=True)
    def getCurrentWeather(  # noqa: N802
        location: str, call: ToolCall, unit: Literal["c", "f"] = "c", days: Annotated[int, Field(ge=1, le=9)] = 1
    ) -> dict[str, Any]:
        """Get the current weather in a given location.

        Not a forecast.

        Args:
            location (str): The city and state,
                e.g. San Francisco, CA
            unit: c or f

        Returns:
            What it is like.
        """
        return {"location": location, "unit": unit, "days": days, "key": call.idempotency_key}

    return toolbox


def test_a_definition_comes_from_signature_and_docstring(weather: Toolbox) -> None:
    """Names, types, defaults and bounds from the signature, explanations from the docstring, nothing injected."""
    assert weather.definitions() == [
        {
            "type": "function",
            "name": "getCurrentWeather",
            "description": "Get the current weather in a given location.\n\nNot a forecast.",
            "parameters": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"},
                    "unit": {"type": "string", "enum": ["c", "f"], "default": "c", "description": "c or f"},
                    "days": {"type": "integer", "minimum": 1, "maximum": 9, "default": 1},
                },
                "required": ["location"],
            },
        }
    ]


def test_a_call_is_answered(weather: Toolbox) -> None:
    """The function gets validated arguments, Python's own defaults, and the call it asked for."""
    expected = {"location": "Berlin", "unit": "c", "days": 3, "key": "key_1"}
    assert ask(weather, "getCurrentWeather", location="Berlin", days=3) == ToolResult(expected)


def test_other_names_are_left_to_others(weather: Toolbox) -> None:
    """A toolbox answers the calls of its names only."""
    assert ask(weather, "getcurrentweather", location="Berlin") is None


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({}, "location: Field required"),
        ({"location": 3}, "location: Input should be a valid string"),
        ({"location": "x", "unit": "k"}, "unit: Input should be 'c' or 'f'"),
        ({"location": "x", "days": 10}, "days: Input should be less than or equal to 9"),
        ({"location": "x", "place": "y"}, "place: Extra inputs are not permitted"),
        ({"location": "x", "call": "y"}, "call: Extra inputs are not permitted"),
    ],
)
def test_bad_arguments_never_reach_the_function(weather: Toolbox, arguments: Any, problem: str) -> None:
    """The model gets a sentence that names the argument and what is wrong with it."""
    expected = f"Error: getCurrentWeather: the arguments do not fit: {problem}"
    assert ask(weather, "getCurrentWeather", **arguments) == ToolResult(expected, is_error=True)


def test_all_problems_are_told_at_once(weather: Toolbox) -> None:
    """The model can mend everything in one further step."""
    assert ask(weather, "getCurrentWeather", unit="k").output.endswith(
        "location: Field required; unit: Input should be 'c' or 'f'"
    )


def test_the_function_stays_callable() -> None:
    """The decorator returns what it was given."""
    toolbox = Toolbox("t")

    def double(n: int) -> int:
        return 2 * n

    assert toolbox.tool()(double) is double


def test_models_as_parameters_are_built() -> None:
    """A pydantic parameter arrives as the object, not as the dict the model sent."""
    toolbox = Toolbox("t")

    @toolbox.tool()
    def where(place: Place, run: Run) -> str:
        return f"{place.city}, {place.country} for {run.app}"

    assert ask(toolbox, "where", place={"city": "Austin"}) == ToolResult("Austin, US for app")
    assert ask(toolbox, "where", place={}).output.endswith("place.city: Field required")


@pytest.mark.parametrize("answer", [None, 0, "", [], {"a": 1}])
def test_whatever_is_returned_is_the_result(answer: Any) -> None:
    """None too: it must not look like "somebody else's tool"."""
    toolbox = Toolbox("t")

    @toolbox.tool()
    def give() -> Any:
        return answer

    assert ask(toolbox, "give") == ToolResult(answer)


def test_a_tool_result_is_passed_on() -> None:
    """A tool can call its own answer an error."""
    toolbox, result = Toolbox("t"), ToolResult("no", is_error=True)

    @toolbox.tool()
    def give() -> ToolResult:
        return result

    assert ask(toolbox, "give") is result


@pytest.mark.parametrize("answer", [None, 3, ToolResult("no", is_error=True)])
def test_async_tools_return_an_awaitable(answer: Any) -> None:
    """It is awaited elsewhere; None is a result here too."""
    toolbox = Toolbox("t")

    @toolbox.tool()
    async def give() -> Any:
        await asyncio.sleep(0)
        return answer

    async def asked() -> Any:
        return await ask(toolbox, "give")

    assert asyncio.run(asked()) == (answer if isinstance(answer, ToolResult) else ToolResult(answer))


def test_options_and_names(weather: Toolbox) -> None:
    """Names and options are there for whoever calls the tools; name and description can be replaced."""

    @weather.tool(name="rain", description="Is it raining?")
    def is_raining() -> bool:
        """Not this."""
        return True

    assert weather.bf_tools() == {
        "getCurrentWeather": ToolOptions(timeout=5, idempotent=True),
        "rain": ToolOptions(timeout=None, idempotent=False),
    }
    assert weather.definitions()[1].get("description") == "Is it raining?"


def test_listed_tools_are_not_added(weather: Toolbox) -> None:
    """By default only callers that list a tool get it."""
    draft = new_draft()
    weather.before_run(run=draft)
    assert draft.tools == []


def test_always_adds_what_the_caller_did_not_list() -> None:
    """A tool that the caller lists keeps the caller's words; another run is not touched by changes to this one."""
    toolbox = Toolbox("t", offer="always")

    @toolbox.tool()
    def one() -> None: ...

    @toolbox.tool()
    def two() -> None: ...

    listed = {"type": "function", "name": "two", "parameters": {"type": "object"}}
    draft, other = new_draft(listed), new_draft()
    toolbox.before_run(run=draft)
    assert [tool.get("name") for tool in draft.tools] == ["two", "one"]
    assert draft.tools[0] is listed
    draft.tools[1]["parameters"]["properties"] = "spoiled"  # type: ignore[typeddict-item]
    toolbox.before_run(run=other)
    assert [tool["parameters"]["properties"] for tool in other.tools] == [{}, {}]  # type: ignore[typeddict-item]


def positional(a: int, /) -> None: ...
def starred(*a: int) -> None: ...
def keywords(**a: int) -> None: ...
def field_default(a: int = Field(3)) -> None: ...


@pytest.mark.parametrize("function", [positional, starred, keywords, field_default])
def test_a_signature_no_model_can_call_is_refused(function: Any) -> None:
    """The author learns it when the module is imported."""
    with pytest.raises(TypeError, match=f"{function.__name__}: .*a"):
        Toolbox("t").tool()(function)


@pytest.mark.parametrize("name", ["", "a b", "ü", "x" * 65, "ui_show"])
def test_a_name_no_provider_takes_is_refused(name: str) -> None:
    """Nor one that would be answered by pages; `""` means the function's own, which is a lambda's here."""
    with pytest.raises(ValueError, match="is no name for a tool"):
        Toolbox("t").tool(name=name)(lambda: None)


def test_two_tools_of_one_name_are_refused(weather: Toolbox) -> None:
    """Which one is meant could not be told."""
    with pytest.raises(ValueError, match="two tools named getCurrentWeather"):
        weather.tool(name="getCurrentWeather")(lambda: None)


def test_an_unknown_offer_is_refused() -> None:
    """A typing slip must not silently mean "listed"."""
    with pytest.raises(ValueError, match="always"):
        Toolbox("t", offer="allways")  # type: ignore[arg-type]


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from(["location", "unit", "days", "call", "x"]), st.from_type(object)))
def test_no_arguments_raise(arguments: dict[str, Any]) -> None:
    """Whatever a model sends, it is told or answered; nothing is raised before the function runs."""
    toolbox = Toolbox("t")

    @toolbox.tool()
    def f(location: str, unit: Literal["c", "f"] = "c", days: int = 1) -> str:
        assert isinstance(location, str)
        assert unit in ("c", "f")
        assert isinstance(days, int)
        return "ran"

    result = ask(toolbox, "f", **arguments)
    assert result.is_error or result.output == "ran"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("", {})),
        ("Do it.", ("Do it.", {})),
        (
            "Do it.\n\nArgs:\n  a: one\n  b (int): two\n    and more\n\nRaises:\n  x: y",
            ("Do it.", {"a": "one", "b": "two and more"}),
        ),
        ("Do it.\n\nReturns:\n  all\n\nArgs:\n\n    a: one: or two", ("Do it.", {"a": "one: or two"})),
        ("Args:\n  a: one\nThis is not of it: b", ("", {"a": "one"})),
        ("Do it. Args: none", ("Do it. Args: none", {})),
    ],
)
def test_google_docstrings_are_read(text: str, expected: tuple[str, dict[str, str]]) -> None:
    """Description before the sections, explanations under `Args:` with their continued lines."""
    assert read_docstring(text) == expected


@dataclasses.dataclass
class Point:
    x: int
    y: int


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("as it is", "as it is"),
        (None, "null"),
        ({"ä": (1, 2.5, True)}, '{"ä":[1,2.5,true]}'),
        (Point(1, 2), '{"x":1,"y":2}'),
        ([Place(city="Austin")], '[{"city":"Austin","country":"US"}]'),
        (datetime.date(2024, 2, 29), '"2024-02-29"'),
        ({3}, "[3]"),
        ("pair \ud83d\ude00 alone \ud83d", "pair 😀 alone \N{REPLACEMENT CHARACTER}"),
        (["\udc00"], '["\N{REPLACEMENT CHARACTER}"]'),
    ],
)
def test_outputs_have_one_text(output: Any, text: str) -> None:
    """A string as it is, all else as compact JSON, and always something UTF-8 can carry."""
    assert answer_text(output) == text


def test_what_contains_itself_is_not_json() -> None:
    """No endless text, and no RecursionError."""
    loop: list[Any] = []
    loop.append(loop)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for output in (loop, deep):
        with pytest.raises(NotJSON):
            answer_text(output)
