"""`bf-plugin demo`: a gateway, a page and a simulated provider in one process."""

from __future__ import annotations

import signal
import threading
import webbrowser

import click


@click.command()
@click.option("--port", default=8080, show_default=True, help="Port on 127.0.0.1; 0 takes a free one.")
@click.option("--open", "open_page", is_flag=True, help="Open the page in a browser.")
def demo(port: int, open_page: bool) -> None:
    """Try it: a gateway with a chat page, the plugin mounted on it, a simulated provider.

    One process, no keys, no network. With OPENAI_API_KEY or BF_OPENAI_BASE_URL set, and BF_MODEL, the real provider.
    """
    from bf_plugin.demo.server import Demo
    from bf_plugin.errors import ConfigurationError

    try:
        with Demo(port=port) as running:
            click.echo(f"The demo is at {running.url} (Ctrl-C ends it)")
            if open_page:
                webbrowser.open(running.url)
            _wait_for_interrupt()
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(
            f"cannot listen on port {port}: {error.strerror}; choose another with --port"
        ) from error


def _wait_for_interrupt() -> None:
    """Block until Ctrl-C or a polite kill, so that the temporary database is removed either way."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()
    click.echo("\nEnding.")
