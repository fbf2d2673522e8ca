"""`bf-plugin plugins`: lists what is installed, and what failed to load."""

from __future__ import annotations

import click

from bf_plugin.errors import ConfigurationError
from bf_plugin.plugins.loaded import PluginReport
from bf_plugin.plugins.loading import load_plugins
from bf_plugin.settings import load_settings


@click.command()
@click.pass_context
def plugins(ctx: click.Context) -> None:
    """List plugins, engines and messengers with their state; exit with 1 if any failed to load."""
    try:
        settings = load_settings()
        loaded = load_plugins(settings=settings)
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from None
    for report in loaded.reports:
        click.echo(_line(report))
        if report.problem:
            click.echo(f"    {report.problem}")
    loaded.close()
    ctx.exit(1 if any(report.status == "failed" for report in loaded.reports) else 0)


def _line(report: PluginReport) -> str:
    source = f"{report.distribution} {report.version}" if report.distribution else "bf_plugin itself"
    return f"{report.status:9} {report.kind:10} {report.name:20} {source:30} {', '.join(report.hooks)}".rstrip()
