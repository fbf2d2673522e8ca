"""`bf-plugin doctor`: checks what a gateway needs, and says what to do."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, TextIO
from urllib.parse import urlsplit

import click

from bf_plugin.cli.target import Target, find_target
from bf_plugin.cli.terminal import harmless
from bf_plugin.doctor.checkup import Subject, check_up
from bf_plugin.doctor.finding import Finding, failed
from bf_plugin.errors import BFError

_WORDS = {"ok": "ok", "failed": "FAIL", "skipped": "skipped"}


@click.command()
@click.option("--app", "target", metavar="MODULE:ATTR", help="The host app, plain or mounted.")
@click.option("--name", help="The name given to mount(): names the database.")
@click.option("--channel", metavar="NAME", help="Send a test message to this channel.")
@click.option(
    "--app-key",
    metavar="KEY",
    prompt="App key",
    prompt_required=False,
    hide_input=True,
    help="The app key to ask and send with; without KEY it is asked for. Default: those configured.",
)
@click.option(
    "--url", default="http://localhost", show_default=True, help="The gateway's address, for apps that look at it."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def doctor(
    ctx: click.Context,
    target: str | None,
    name: str | None,
    channel: str | None,
    app_key: str | None,
    url: str,
    as_json: bool,
) -> None:
    """Check settings, plugins, database, provider and messaging, and say what to do about what is wrong.

    Nothing is changed, and nothing is sent but requests that cost nothing; with --channel, one test message for each
    app, which pages do nothing with. Exits with 1 if anything failed.
    """
    environ, output, found = _environ(url), sys.stdout, []
    with contextlib.redirect_stdout(sys.stderr):  # what the app prints is not our output
        for finding in _findings(target, name, environ, channel, app_key):
            found.append(finding)
            if not as_json:
                _print(finding, output)
    well = all(finding.status != "failed" for finding in found)
    if as_json:
        click.echo(json.dumps({"ok": well, "findings": [asdict(finding) for finding in found]}, indent=2))
    ctx.exit(0 if well else 1)


def _findings(
    target: str | None, name: str | None, environ: Mapping[str, Any], channel: str | None, app_key: str | None
) -> Iterator[Finding]:
    deployment, problem = _load(target, name)
    if problem is not None:
        yield failed("settings", f"--app {target}: {problem}", "see that it can be imported from this directory")
    known = problem is None or name is not None
    subject = Subject(
        host_app=deployment.host_app,
        settings=deployment.settings,
        plugins=deployment.plugins,
        database=deployment.default_database if known else None,
        environ=environ,
        channel=channel,
        app_key=app_key,
    )
    yield from check_up(subject)


def _load(target: str | None, name: str | None) -> tuple[Target, str | None]:
    """Return the deployment, and why its app cannot be loaded."""
    try:
        return find_target(target, name), None
    except click.ClickException as error:
        return Target(name=name), error.message.removeprefix(f"--app {target}: ")
    except BFError as error:  # mount()'s
        return Target(name=name), str(error)
    except (Exception, SystemExit) as error:  # the app's own, which may quote anything
        return Target(name=name), type(error).__name__


def _environ(url: str) -> Mapping[str, Any]:
    """Return the environ of a request to the gateway at this address."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or parts.scheme not in ("http", "https"):
        raise click.BadParameter("must be an address such as https://gateway.example.com", param_hint="--url")
    return {
        "HTTP_HOST": host if port is None else f"{host}:{port}",
        "REMOTE_ADDR": "127.0.0.1",
        "SCRIPT_NAME": parts.path.rstrip("/"),
        "SERVER_NAME": host,
        "SERVER_PORT": str(port or (443 if parts.scheme == "https" else 80)),
        "wsgi.multiprocess": False,
        "wsgi.multithread": True,
        "wsgi.url_scheme": parts.scheme,
    }


def _print(finding: Finding, output: TextIO) -> None:
    click.echo(f"{_WORDS[finding.status]:8} {finding.part:10} {harmless(finding.text)}", file=output)
    if finding.advice:
        click.echo(f"{'':19} -> {harmless(finding.advice)}", file=output)
