"""The tool on its own, and the distribution as it is found when installed."""

from __future__ import annotations

import importlib.metadata

import pytest
from bf_hook_weather import SKIES, getCurrentWeather, tools


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
    """Installed, the distribution lets bf_plugin find the toolbox under the name weather."""
    (entry,) = importlib.metadata.distribution("bf-hook-weather").entry_points.select(group="bf_plugin")
    assert (entry.name, entry.load()) == ("weather", tools)
