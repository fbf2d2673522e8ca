"""The tool on its own, in a run, and the distribution against the rules for plugins."""

from __future__ import annotations

import importlib.metadata
import json

import pytest
from bf_hook_weather import SKIES, getCurrentWeather, tools

from bf_plugin.testing import assert_events, call, check_plugin


def test_the_same_place_has_the_same_weather():
    """Case and spaces in a name do not change the answer, so that tests can rely on it."""
    first, second = getCurrentWeather("San Francisco, CA"), getCurrentWeather("  san  francisco, ca")
    assert (first["temperature"], first["sky"]) == (second["temperature"], second["sky"])


@pytest.mark.parametrize("place", ["Berlin", "東京", "Ushuaia", "🏔", "\ud800"])
def test_figures_are_plausible(place):
    """Any name gives a temperature a person could meet and a sky with a name."""
    weather = getCurrentWeather(place)
    assert -5 <= weather["temperature"] <= 34
    assert weather["sky"] in SKIES


def test_fahrenheit_is_the_same_temperature():
    """The unit changes the figure, not the weather."""
    celsius, fahrenheit = getCurrentWeather("Berlin"), getCurrentWeather("Berlin", unit="f")
    assert fahrenheit["temperature"] == round(celsius["temperature"] * 9 / 5 + 32)


def test_it_says_that_it_is_not_measured():
    """Nobody is to take the figure for a fact."""
    assert getCurrentWeather("Berlin")["source"] == "computed from the name, not measured"


def test_the_model_is_told_how_to_call_it():
    """The definition has the description, both parameters and which one is required."""
    (definition,) = tools.definitions()
    assert definition["name"] == "getCurrentWeather"
    assert definition["description"] == "Get the current weather in a given location."
    assert definition["parameters"]["required"] == ["location"]
    assert definition["parameters"]["properties"]["unit"]["enum"] == ["c", "f"]
    assert definition["parameters"]["properties"]["location"]["description"].startswith("The city and state")


def test_its_entry_point_is_the_toolbox():
    """Installed, the distribution lets bf_plugin find the toolbox under its name."""
    (entry,) = importlib.metadata.distribution("bf-hook-weather").entry_points.select(group="bf_plugin")
    assert (entry.name, entry.load()) == ("weather", tools)


def test_a_run_is_answered_by_it(scripted):
    """Installed, and listed by the caller, it answers the model's call: the next step has its result."""
    deployed = scripted([call("getCurrentWeather", {"location": "Berlin"})], "It is fine.")
    listed = {"type": "function", "function": tools.definitions()[0]}

    run = deployed.start("What is the weather?", tools=[listed])

    assert_events(deployed.events(run), "threadInfo function_call delta+ end", text="It is fine.")
    (answer,) = [item for item in deployed.engine.requests[1].new if item["type"] == "function_output"]
    assert json.loads(answer["output"]) == getCurrentWeather("Berlin")


def test_it_keeps_the_rules():
    """Hooks, types, threads, failures: what bf_plugin asks of every distribution."""
    check_plugin("bf-hook-weather")
