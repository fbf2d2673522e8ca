"""What was measured, as a table for people and as JSON for everybody else."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from bf_plugin.bench.figure import Figure

_PARTS = ("bf_plugin", "openai", "aiohttp", "uvloop", "SQLAlchemy")


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
        "system": platform.platform(),
        "versions": {name: _version(name) for name in _PARTS},
    }


def line(figure: Figure) -> str:
    """Return a figure as a line of a table."""
    value = f"{figure.value:.3g} {figure.unit}"
    spread = f"({figure.spread[0]:.3g} to {figure.spread[1]:.3g})" if figure.spread else ""
    target = f"at most {figure.target:g}" if figure.target is not None else ""
    verdict = {True: "met", False: "MISSED", None: ""}[figure.met]
    return f"{figure.name:34} {figure.pace:34} {value:>16} {spread:18} {target:13} {verdict}".rstrip()


def as_json(figures: Sequence[Figure]) -> dict[str, Any]:
    """Return all that was measured, raw data included."""
    return {
        "machine": machine(),
        "figures": [
            {
                "name": figure.name,
                "pace": figure.pace,
                "value": figure.value,
                "unit": figure.unit,
                "spread": figure.spread,
                "target": figure.target,
                "met": figure.met,
                "raw": figure.raw,
            }
            for figure in figures
        ],
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
