"""The demo's server-side tool, for when no distribution that brings one is installed."""

from __future__ import annotations

import zlib
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any, Literal

from bf_plugin.plugins.toolbox import Toolbox

_SKIES = ("sunny ☀️", "partly cloudy ⛅", "rainy 🌧️", "windy 💨", "foggy 🌫️", "clear 🌤️")


def weather_tools() -> list[Toolbox]:
    """Return a Toolbox with `getCurrentWeather`, or nothing if bf-hook-weather is installed and answers already."""
    try:
        distribution("bf-hook-weather")
    except PackageNotFoundError:
        return [_made_up_weather()]
    return []


def _made_up_weather() -> Toolbox:
    tools = Toolbox("demo-weather")

    @tools.tool(timeout=5, idempotent=True)
    def getCurrentWeather(location: str, unit: Literal["c", "f"] = "c") -> dict[str, Any]:  # noqa: N802 - published name
        """Get the current weather in a given location."""
        # The same place has the same weather, whatever the process.
        number = zlib.crc32(location.casefold().encode())
        celsius = 8 + number % 20
        degrees = celsius if unit == "c" else round(celsius * 9 / 5 + 32)
        return {"location": location, "temperature": degrees, "unit": unit, "sky": _SKIES[number // 32 % len(_SKIES)]}

    return tools
