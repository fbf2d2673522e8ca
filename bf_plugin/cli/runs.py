"""`bf-plugin runs`: the journal, for operators. It never shows thread ids or keys."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import click

from bf_plugin.cli.diagnosis import Diagnosis, diagnose, duration
from bf_plugin.cli.target import find_target
from bf_plugin.cli.terminal import harmless
from bf_plugin.dispatch.owner import Owner
from bf_plugin.errors import BFError
from bf_plugin.gateway.events import events_in, step_texts
from bf_plugin.journal import Journal, open_journal
from bf_plugin.journal.overview import RunLine
from bf_plugin.journal.records import CANCELLED
from bf_plugin.journal.sqlite import SqliteFile
from bf_plugin.journal.states import ENDED
from bf_plugin.journal.writer import written
from bf_plugin.settings import load_settings

_HEAD = ("RUN", "AGE", "STATE", "OUTCOME", "APP", "OWNER", "ATTEMPTS", "DOING")


@dataclass(frozen=True, slots=True)
class _Deployment:
    """What the commands look at."""

    journal: Journal
    is_alive: Callable[[str], bool]

    def diagnosis(self, run: RunLine) -> Diagnosis:
        overview = self.journal.overview
        return diagnose(
            run,
            alive=self.alive(run),
            steps=overview.steps(run.id),
            calls=overview.calls(run.id),
            messages=overview.messages(run.id),
            now=time.time(),
        )

    def alive(self, run: RunLine) -> bool:
        return run.owner is not None and self.is_alive(run.owner)


class _Group(click.Group):
    """Says what went wrong instead of showing a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BFError as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=_Group)
@click.option(
    "--app", "target", metavar="MODULE:ATTR", help="The host app, plain or mounted: tells settings and database."
)
@click.option("--name", help="The name given to mount(): names the database.")
@click.pass_context
def runs(ctx: click.Context, target: str | None, name: str | None) -> None:
    """Look at runs, and stop them.

    The database is that of BF_DATABASE_URL; else the one `serve` or mount() uses by itself in this directory.
    """
    deployment = find_target(target, name)
    settings = deployment.settings or load_settings()
    url = settings.database_url or deployment.default_database
    journal = open_journal(url, settings.names("secret_key"), create=False)
    ctx.call_on_close(journal.close)
    if isinstance(journal.database, SqliteFile):
        owner = Owner(journal.database.lock_folder)
        ctx.call_on_close(owner.release)
        ctx.obj = _Deployment(journal, owner.is_alive)
    else:
        ctx.obj = _Deployment(journal, partial(journal.owners.is_alive, timeout=settings.heartbeat_timeout))


@runs.command("list")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(min=1), help="How many to show.")
@click.option("--stuck", is_flag=True, help="Only those that do not get on.")
@click.pass_obj
def list_(deployment: _Deployment, limit: int, stuck: bool) -> None:
    """List runs: those under way first, then the newest."""
    found = [(run, deployment.diagnosis(run)) for run in deployment.journal.overview.newest(limit)]
    rows = [_row(deployment, run, why) for run, why in found if why.stuck or not stuck]
    if not rows:
        click.echo("no run is stuck" if stuck else "no runs")
        return
    widths = [max(map(len, column)) for column in zip(_HEAD, *rows, strict=True)]
    for row in (_HEAD, *rows):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(harmless(line.rstrip()))


@runs.command()
@click.argument("run_id")
@click.option("--content", is_flag=True, help="Also what was said, asked of tools, and answered.")
@click.pass_obj
def show(deployment: _Deployment, run_id: str, content: bool) -> None:
    """Show a run: its steps, its tool calls, its messages."""
    overview = deployment.journal.overview
    run = _known(deployment, run_id)
    why = deployment.diagnosis(run)
    for title, value in _facts(deployment, run).items():
        _say(title, value)
    if why.text:
        _say("stuck" if why.stuck else "doing", why.text)
    for step in overview.steps(run_id):
        took = f", {step.ended_at - step.started_at:.1f} s" if step.ended_at else ""
        _say(f"step {step.number}", f"{step.state}{took}, {step.usage.total_tokens} tokens")
    for call in overview.calls(run_id, content=content):
        _say("call", f"{call.name} (step {call.step}): {call.state}")
        if content:
            _say("", f"asked: {call.arguments}")
            _say("", f"answered: {call.output}")
    if content:
        _show_content(deployment.journal, run_id)


@runs.command()
@click.argument("run_id")
@click.pass_obj
def stop(deployment: _Deployment, run_id: str) -> None:
    """Stop a run, as the stop endpoint does: decide its outcome, which its process then obeys."""
    run = _known(deployment, run_id)
    ending = written(deployment.journal.runs.decide(run_id, CANCELLED))
    click.echo("cancelled" if ending.won else f"already {ending.status}")
    if run.state != ENDED and not deployment.alive(run):
        click.echo("its process is gone: the process that takes it over will send `end`")


def _known(deployment: _Deployment, run_id: str) -> RunLine:
    run = deployment.journal.overview.run(run_id)
    if run is None:
        raise click.ClickException(f"no run {run_id} is on record")
    return run


def _row(deployment: _Deployment, run: RunLine, why: Diagnosis) -> tuple[str, ...]:
    doing = f"STUCK: {why.text}" if why.stuck else why.text
    age = duration(time.time() - run.created_at)
    return run.id, age, run.state, run.outcome or "-", run.app, _owner(deployment, run), str(run.attempts), doing


def _owner(deployment: _Deployment, run: RunLine) -> str:
    if run.state == ENDED or run.owner is None:
        return "-"
    return f"pid {run.owner.partition('-')[0]} {'alive' if deployment.alive(run) else 'gone'}"


def _facts(deployment: _Deployment, run: RunLine) -> Mapping[str, str]:
    messages = deployment.journal.overview.messages(run.id)
    return {
        "run": run.id,
        "app": run.app,
        "state": run.state,
        "outcome": f"{run.outcome}, finish_reason {run.finish_reason}" if run.outcome else "-",
        "age": duration(time.time() - run.created_at),
        "took": f"{run.ended_at - run.started_at:.1f} s" if run.ended_at and run.started_at else "-",
        "owner": _owner(deployment, run),
        "attempts": str(run.attempts),
        "messages": ", ".join(f"{count} {state}" for state, count in sorted(messages.items())) or "none",
    }


def _show_content(journal: Journal, run_id: str) -> None:
    for message in journal.overview.asked(run_id):
        texts = [part["text"] if part["type"] == "text" else f"({part['type']})" for part in message["content"]]
        _say(message["role"], " ".join(texts))
    rows = journal.log.after(run_id)
    for text in step_texts(event for row in rows for event in events_in(row.body)):
        if text:
            _say("said", text)


def _say(title: str, text: str) -> None:
    click.echo(f"{title:10} {harmless(text)}")
