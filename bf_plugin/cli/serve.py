"""`bf-plugin serve`: waitress in front of a host app, or alone."""

from __future__ import annotations

import importlib
import signal
import sys
from typing import Any, NoReturn

import click

from bf_plugin.errors import BFError
from bf_plugin.runtime.logs import configure
from bf_plugin.runtime.memory import freeze_loaded
from bf_plugin.settings import Settings, load_settings
from bf_plugin.web.mount import Application
from bf_plugin.web.refusal import nothing_else


@click.command()
@click.option("--app", "target", metavar="MODULE:ATTR", help="The WSGI app to put the endpoint in front of.")
@click.option("--listen", default="127.0.0.1:8080", show_default=True, metavar="HOST:PORT", help="Port 0 picks one.")
@click.option("--threads", default=16, show_default=True, type=click.IntRange(min=2), help="Server threads.")
def serve(target: str | None, listen: str, threads: int) -> None:
    """Serve the endpoint with waitress, until SIGTERM or SIGINT: then the runs are handed over."""
    try:
        settings = load_settings()
        if settings.max_waiters is None:
            settings = settings.model_copy(update={"max_waiters": threads // 2})
        configure(settings.log_format)
        application = _application(target, settings)
        application.start()
        freeze_loaded()
    except BFError as error:
        raise click.ClickException(str(error)) from None
    signal.signal(signal.SIGTERM, lambda *_: _leave(application))
    try:
        run(application, listen, threads)
    finally:
        application.close()


def _leave(application: Application) -> NoReturn:
    """Hand the runs over, then let the server end: it waits some seconds for readers of streams."""
    application.close()
    raise SystemExit(0)


def run(application: Any, listen: str, threads: int) -> None:
    """Serve `application` on `HOST:PORT`, saying where on standard output."""
    from waitress.server import create_server

    try:
        # Reading ahead by one request is how waitress notices that the reader of an event stream has gone.
        server = create_server(application, listen=listen, threads=threads, ident=None, channel_request_lookahead=1)
    except (OSError, ValueError) as error:
        raise click.ClickException(f"cannot listen on {listen}: {error}") from None
    host, port = _bound(server)
    click.echo(f"serving on http://{host}:{port}")
    sys.stdout.flush()
    server.run()


def _bound(server: Any) -> tuple[str, int]:
    """Return where a waitress server listens; with several sockets, the first of them."""
    listening = getattr(server, "effective_listen", None)
    return listening[0] if listening else (server.effective_host, server.effective_port)


def _application(target: str | None, settings: Settings) -> Application:
    if target is not None:
        return Application(load_app(target), name=None, settings=settings, plugins=())
    if settings.messaging_url is None and not any(app.messaging_url for app in settings.apps.values()):
        raise click.ClickException("without --app there is no host to send messages to: set BF_MESSAGING_URL")
    return Application(nothing_else, name=None, settings=settings, plugins=())


def load_app(target: str) -> Any:
    """Return the WSGI app at `MODULE:ATTR`."""
    module, _, attribute = target.partition(":")
    sys.path.insert(0, "")  # as gunicorn and flask do: the app usually lies in the working directory
    try:
        return getattr(importlib.import_module(module), attribute or "application")
    except (ImportError, AttributeError) as error:
        raise click.ClickException(f"--app {target}: {error}") from None
