"""`bf-plugin worker`: drives runs from Postgres without serving HTTP."""

from __future__ import annotations

import signal
import threading

import click

from bf_plugin.errors import BFError, ConfigurationError
from bf_plugin.runtime.logs import configure
from bf_plugin.runtime.memory import freeze_loaded
from bf_plugin.settings import load_settings
from bf_plugin.web.mount import Application
from bf_plugin.web.refusal import nothing_else


@click.command()
def worker() -> None:
    """Take over runs that other processes leave, until SIGTERM or SIGINT hands them on.

    It takes the runs whose messages go over HTTP (BF_MESSAGING_URL); those delivered to a host app in-process stay with
    the processes that have it. Hooks and tools must be installed here too.
    """
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    try:
        settings = load_settings()
        if not (settings.database_url or "").startswith("postgres"):
            raise ConfigurationError(
                "BF_DATABASE_URL: a worker needs postgresql://, with SQLite servers drive all runs"
            )
        configure(settings.log_format)
        application = Application(nothing_else, name=None, settings=settings, plugins=())
        application.start()
        freeze_loaded()
    except BFError as error:
        raise click.ClickException(str(error)) from None
    click.echo("driving runs; SIGTERM hands them over")
    try:
        ended.wait()
    finally:
        application.close()
