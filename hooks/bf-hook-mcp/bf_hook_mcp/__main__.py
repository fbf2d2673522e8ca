"""`python -m bf_hook_mcp apps.toml`: reach each server that the file configures, and print what it offers."""
# ruff: noqa: T201 - it is for people

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bf_hook_mcp.connection import Connection
from bf_hook_mcp.settings import read_settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def main(arguments: Sequence[str]) -> int:
    """Return 0 if all servers are there, 1 if one is not, 2 if it could not be tried."""
    file = arguments[0] if arguments else os.environ.get("BF_APPS_FILE")
    if file is None:
        print("usage: python -m bf_hook_mcp APPS_FILE", file=sys.stderr)
        return 2
    try:
        section = tomllib.loads(Path(file).read_text(encoding="utf-8")).get("plugins", {}).get("mcp", {})
        settings = read_settings(section)
    except (OSError, ValueError) as error:
        print(f"{file}: {error}", file=sys.stderr)
        return 2
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    return asyncio.run(_look([Connection(name, server) for name, server in settings.servers.items()]))


async def _look(connections: Sequence[Connection]) -> int:
    await asyncio.gather(*(connection.ready() for connection in connections))
    down = [connection.name for connection in connections if not connection.up]
    for connection in connections:
        print(f"{connection.name}: {'down' if connection.name in down else f'{len(connection.offers)} tools'}")
        for name, offer in connection.offers.items():
            about = (offer.definition.get("description", "").strip().splitlines() or [""])[0]
            print(f"  {name}{'' if not offer.options.idempotent else ' (may be repeated)'}  {about}".rstrip())
    await asyncio.gather(*(connection.aclose() for connection in connections))
    return 1 if down else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
