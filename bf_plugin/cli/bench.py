"""`bf-plugin bench`: measures this installation."""

from __future__ import annotations

import os
from dataclasses import replace

import click
import msgspec

from bf_plugin.bench.figure import FULL, QUICK, Figure
from bf_plugin.bench.figures import FIGURES
from bf_plugin.bench.report import as_json, line
from bf_plugin.bench.rig import BenchError, Rig


@click.command()
@click.option("--quick", is_flag=True, help="A minute instead of half an hour: a look, not a measurement.")
@click.option("--repetitions", type=click.IntRange(min=1), help="How often what is compared is measured; 5, quick 1.")
@click.option("--seconds", type=click.FloatRange(min=0.5), help="How long each measurement takes; 10, quick 3.")
@click.option("--json", "as_data", is_flag=True, help="Print everything that was measured as JSON.")
@click.option("--only", multiple=True, type=click.Choice(sorted(FIGURES)), help="This figure; may be repeated.")
@click.option("--database-url", metavar="URL", help="Measure with this database instead of an SQLite file.")
def bench(
    quick: bool,
    repetitions: int | None,
    seconds: float | None,
    as_data: bool,
    only: tuple[str, ...],
    database_url: str | None,
) -> None:
    """Measure this installation: what a delta costs, how many streams it carries, how long things take.

    Each figure is paired with its baseline in the same run. Exit code 1 if a target is missed.
    """
    effort = QUICK if quick else FULL
    effort = replace(effort, repetitions=repetitions or effort.repetitions, seconds=seconds or effort.seconds)
    core = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    found: list[Figure] = []
    for name, measure in FIGURES.items():
        if only and name not in only:
            continue
        try:
            with Rig(core=core, database_url=database_url) as rig:
                for figure in measure(rig, effort):
                    found.append(figure)
                    click.echo(line(figure), err=as_data)
        except BenchError as error:
            raise click.ClickException(f"{name}: {error}") from None
    if as_data:
        click.echo(msgspec.json.encode(as_json(found)))
    raise SystemExit(1 if any(figure.met is False for figure in found) else 0)
