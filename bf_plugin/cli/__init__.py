"""The command `bf-plugin`. Each command's module is imported when it is called."""

from __future__ import annotations

import importlib

import click

COMMANDS = ("bench", "demo", "doctor", "new-hook", "plugins", "runs", "serve", "worker")


class _Lazy(click.Group):
    """Finds a command in the module of its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(importlib.import_module(f"bf_plugin.cli.{name}"), name)
        return command


@click.command(cls=_Lazy)
@click.version_option(package_name="bf_plugin")
def main() -> None:
    """Run assistants behind a BetterForms-style gateway."""
