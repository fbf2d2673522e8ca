"""A toolbox with one tool: the weather, or rather a figure that looks like it. See README.md."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

from pydantic import Field

from bf_plugin import Toolbox

SKIES = ("clear", "partly cloudy", "overcast", "light rain", "windy")

tools = Toolbox("weather")


@tools.tool(timeout=5, idempotent=True)
def getCurrentWeather(  # noqa: N802  # the name that models and callers know
    location: Annotated[str, Field(min_length=1, max_length=200)],
    unit: Literal["c", "f"] = "c",
) -> dict[str, Any]:
    """Get the current weather in a given location.

    Args:
        location: The city and state, e.g. San Francisco, CA
        unit: c for degrees Celsius, f for Fahrenheit
    """
    celsius, sky = _climate(location)
    return {
        "location": location,
        "temperature": celsius if unit == "c" else round(celsius * 9 / 5 + 32),
        "unit": unit,
        "sky": sky,
        "source": "computed from the name, not measured",
    }


def _climate(location: str) -> tuple[int, str]:
    """Return degrees Celsius (-5 to 34) and a sky for a name; spelling in other letters or spaces does not matter."""
    digest = hashlib.sha256(" ".join(location.casefold().split()).encode("utf-8", "replace")).digest()
    return digest[0] % 40 - 5, SKIES[digest[1] % len(SKIES)]
