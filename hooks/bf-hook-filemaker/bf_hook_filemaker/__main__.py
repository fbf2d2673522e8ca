"""`python -m bf_hook_filemaker`: look at the settings, try a tool, and a FileMaker Server to try it with."""

from __future__ import annotations

import json
import logging
import sys
import threading
from pathlib import Path
from typing import Any

import click

from bf_hook_filemaker import settings
from bf_hook_filemaker.check import check as checked
from bf_hook_filemaker.plugin import FileMaker
from bf_hook_filemaker.testing import Ended, FakeFileMaker
from bf_plugin import ConfigurationError, Run, ToolCall

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_MARKS = {True: "ok", False: "FAIL", None: "skipped"}
_ORDERS = {1001: "shipped", 1002: "being packed"}


@click.group()
def main() -> None:
    """FileMaker scripts as tools for bf_plugin. APPS_FILE is the file that BF_APPS_FILE names."""
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)


@main.command()
@click.argument("apps_file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def check(apps_file: Path) -> None:
    """Log in to each database and look whether scripts and layouts are there. Runs nothing."""
    findings = list(checked(_read(apps_file)))
    for finding in findings:
        click.echo(f"{_MARKS[finding.ok]:8} {finding.text}")
    if any(finding.ok is False for finding in findings):
        sys.exit(1)


@main.command()
@click.argument("apps_file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("tool")
@click.argument("arguments", default="{}")
@click.option("--app", default="app", help="The app for which the tool is called, where connections are for some only.")
def call(apps_file: Path, tool: str, arguments: str, app: str) -> None:
    """Call a tool with ARGUMENTS, a JSON object, and print what a model would be told. Runs its script."""
    plugin = FileMaker(_read(apps_file))
    try:
        asked = ToolCall(id="call_1", name=tool, arguments=_object(arguments), idempotency_key="try:call_1")
        answer = plugin.on_tool_call(_run(app), asked)
    finally:
        plugin.close()
    if answer is None:
        raise click.ClickException(f"there is no tool {tool} for the app {app}")
    click.echo(answer.output if isinstance(answer.output, str) else json.dumps(answer.output, ensure_ascii=False))
    if answer.is_error:
        sys.exit(1)


@main.command()
@click.argument("apps_file", type=click.Path(dir_okay=False, path_type=Path))
def fake(apps_file: Path) -> None:
    """Serve a FileMaker Server with two orders in it until Ctrl-C, and write APPS_FILE, whose tool finds them."""
    if apps_file.exists():
        raise click.ClickException(f"{apps_file} is there already")
    with FakeFileMaker({"find order": _find_order}) as server:
        apps_file.write_text(_EXAMPLE.format(url=server.url), "utf-8")
        click.echo(f"Serving {server.url}, which {apps_file} names. Try:\n")
        click.echo(f"  python -m bf_hook_filemaker call {apps_file} find_order '{{\"number\": 1001}}'")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            click.echo("")


_EXAMPLE = """\
[plugins.filemaker.connections.sales]
kind = "data_api"
url = "{url}"
database = "Sales"
account = "assistant"
password = "open sesame"

[plugins.filemaker.tools.find_order]
description = "Find an order by its number."
script = "find order"
layout = "API"
idempotent = true

[plugins.filemaker.tools.find_order.parameters]
required = ["number"]
properties.number = {{ type = "integer", description = "four digits, as on the receipt" }}
"""


def _find_order(parameter: str) -> str | Ended:
    number = json.loads(parameter)["arguments"]["number"]
    return json.dumps({"number": number, "status": _ORDERS[number]}) if number in _ORDERS else Ended(error=401)


def _read(apps_file: Path) -> settings.Section:
    try:
        tables = tomllib.loads(apps_file.read_text("utf-8"))
        return settings.read(tables.get("plugins", {}).get("filemaker", {}))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ConfigurationError) as error:
        raise click.ClickException(f"{apps_file}: {error}") from None


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"is not JSON: {error}", param_hint="ARGUMENTS") from None
    if not isinstance(value, dict):
        raise click.BadParameter("is no JSON object", param_hint="ARGUMENTS")
    return value


def _run(app: str) -> Run:
    return Run(
        id="try",
        thread_id="",
        app=app,
        request_id="",
        provider="",
        model="",
        instructions=None,
        tools=(),
        metadata={},
        options={},
        stream=False,
    )


if __name__ == "__main__":
    main(prog_name="python -m bf_hook_filemaker")
