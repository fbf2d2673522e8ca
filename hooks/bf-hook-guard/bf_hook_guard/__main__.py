"""Tries rules on a text: `python -m bf_hook_guard apps.toml < text` writes what a page would see of it."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bf_hook_guard.scanner import Scan, Scanner, TooSlow
from bf_hook_guard.settings import load, scanners
from bf_plugin import BFError, ConfigurationError, Run, StopRun

_toml: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 0, or 1 when the run would have been stopped, 2 when the settings are wrong."""
    parser = argparse.ArgumentParser(prog="python -m bf_hook_guard", description=__doc__)
    parser.add_argument("file", type=Path, help="a TOML file with a table [plugins.guard], as BF_APPS_FILE names it")
    parser.add_argument("--app", default="", help="the app whose rules are tried; by default those of all apps")
    options = parser.parse_args(arguments)
    try:
        scanner = _scanner(options.file, options.app)
    except (OSError, ValueError, BFError) as error:
        return _said(f"{options.file}: {error}", 2)
    if scanner is None:
        return _said("no rule is for this app", 2)
    return _played(Scan(scanner, _run(options.app)), scanner)


def _scanner(file: Path, app: str) -> Scanner | None:
    section = _toml.loads(file.read_text(encoding="utf-8")).get("plugins", {}).get("guard")
    if section is None:
        raise ConfigurationError("there is no table [plugins.guard]")
    by_app, others = scanners(load(section))
    return by_app.get(app, others)


def _played(scan: Scan, scanner: Scanner) -> int:
    """Let standard input through, a line at a time, and say what was found."""
    stopped = ""
    try:
        for line in sys.stdin:
            sys.stdout.write(scan.feed(line))
        sys.stdout.write(scan.feed("", final=True))
    except (StopRun, TooSlow) as error:
        stopped = f"; the run ends here: {error}"
    sys.stdout.flush()
    found = ", ".join(f"{rule} {times}" for rule, times in sorted(scan.applied.items())) or "nothing"
    return _said(f"found: {found}; held back: {scanner.longest} characters at most{stopped}", 1 if stopped else 0)


def _run(app: str) -> Run:
    """Return a run for callbacks to look at."""
    return Run(
        id="trial",
        thread_id="trial",
        app=app,
        request_id="trial",
        provider="none",
        model="none",
        instructions=None,
        tools=(),
        metadata={},
        options={},
        stream=True,
    )


def _said(text: str, code: int) -> int:
    sys.stderr.write(f"{text}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
