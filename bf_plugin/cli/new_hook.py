"""`bf-plugin new-hook`: a distribution to begin with.

It is hooks/bf-hook-weather under another name; `template/` holds its files, and a test keeps the two alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from importlib.abc import Traversable  # since Python 3.11 elsewhere

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_SUFFIX = ".txt"  # so that nothing takes a template for the thing itself


@click.command("new-hook")
@click.argument("name")
@click.option(
    "--directory",
    type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
    default=".",
    help="Where to make the folder bf-hook-NAME; default: here.",
)
def new_hook(name: str, directory: Path) -> None:
    """Make bf-hook-NAME: a distribution with a tool, passing tests, tox.ini and README.

    NAME is of letters, digits and dashes.
    """
    name = name.removeprefix("bf-hook-")
    if not _NAME.fullmatch(name):
        raise click.ClickException(
            f"{name!r} is no name: use small letters, digits and single dashes, a letter first, as in order-status"
        )
    folder = directory / f"bf-hook-{name}"
    if folder.exists():
        raise click.ClickException(f"{folder} is there already: choose another name, or remove it")
    for path, text in _renamed(name):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    click.echo(f"made {folder}; next, where your gateway is installed:\n")
    click.echo(f"    pip install -e {folder} 'bf_plugin[testing]'")
    click.echo(f"    bf-plugin plugins\n    pytest {folder}\n")
    click.echo("then put what your assistants should be able to do in place of the example (docs/writing-hooks.md)")


def _renamed(name: str) -> Iterator[tuple[str, str]]:
    """Yield the files of the template, path and text, with the example's names replaced."""
    words = _words(name)
    for path, text in _template(files("bf_plugin.cli") / "template"):
        yield _replaced(path, words), _replaced(text, words)


def _words(name: str) -> Mapping[str, str]:
    """Return what the names of the example become, the longer ones first."""
    camel = "".join(part.capitalize() for part in name.split("-"))
    return {
        "bf-hook-weather": f"bf-hook-{name}",
        "bf_hook_weather": f"bf_hook_{name.replace('-', '_')}",
        "getCurrentWeather": f"getCurrent{camel}",
        '"weather"': f'"{name}"',
        'weather = "': f'{name} = "',
    }


def _replaced(text: str, words: Mapping[str, str]) -> str:
    for old, new in words.items():
        text = text.replace(old, new)
    return text


def _template(folder: Traversable, below: str = "") -> Iterator[tuple[str, str]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _template(entry, f"{below}{entry.name}/")
        else:
            yield below + entry.name.removesuffix(_SUFFIX), entry.read_text(encoding="utf-8")
