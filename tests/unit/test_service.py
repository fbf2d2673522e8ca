"""The service: all of it or nothing of it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr

from bf_plugin import service
from bf_plugin.errors import ConfigurationError
from bf_plugin.service import Service
from bf_plugin.settings import Settings


def host(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    raise AssertionError("no request of the host is made here")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    made: list[Service] = []

    def make(plugins: tuple[object, ...] = (), has_host: bool = True, **values: Any) -> Service:
        url = f"sqlite:///{tmp_path / 'journal.db'}"
        settings = Settings(database_url=url, secret_key=SecretStr(Fernet.generate_key().decode()), **values)
        made.append(Service(host, name=None, settings=settings, plugins=plugins, has_host=has_host))
        return made[-1]

    yield make
    for one in made:
        one.close()


def ours() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("bf-")}


def marks(folder: Path) -> list[Path]:
    return list((folder / "journal.db.d").glob("*"))


def test_close_leaves_nothing(make: Callable[..., Service], tmp_path: Path) -> None:
    """Neither a thread nor a mark; closing twice is closing once."""
    before = ours()
    running = make()
    assert ours() > before
    assert len(marks(tmp_path)) == 1

    running.close()
    running.close()

    assert ours() == before
    assert marks(tmp_path) == []


def test_a_service_that_cannot_be_made_leaves_nothing(
    make: Callable[..., Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starting is tried again every few seconds: what was open is closed each time."""
    before = ours()

    def fail(*args: object) -> None:
        raise ConfigurationError("late")

    monkeypatch.setattr(service, "create_app", fail)
    with pytest.raises(ConfigurationError, match="late"):
        make()

    assert ours() == before
    assert marks(tmp_path) == []


def test_one_part_that_fails_to_close_does_not_keep_the_others(
    make: Callable[..., Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark is given up and the threads end, though something hangs or raises."""
    before = ours()
    running = make()
    monkeypatch.setattr(service, "_CLOSE_PATIENCE", 0.01)

    async def hang() -> None:
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(type(running._plugins), "aclose", lambda self: hang())

    running.close()

    assert ours() == before
    assert marks(tmp_path) == []


@pytest.mark.parametrize("url", ["carrier-pigeon://loft", "http://[", "no url"])
def test_a_messaging_url_nobody_serves(make: Callable[..., Service], url: str) -> None:
    """Its runs would be silent: the start fails instead, and says why, without the URL and its password."""
    with pytest.raises(ConfigurationError, match=r"BF_MESSAGING_URL.*http://") as caught:
        make(messaging_url=url)
    assert url not in str(caught.value)


def test_the_sdk_is_loaded_before_it_is_needed(tmp_path: Path) -> None:
    """By the service, in the background; importing the plugin and mounting it loads nothing of it."""
    code = """
import sys, threading
from bf_plugin import mount
from bf_plugin.settings import Settings
application = mount(lambda environ, start_response: [], settings=Settings(database_url=sys.argv[1]))
assert not {"openai", "sqlalchemy", "aiohttp"} & set(sys.modules), "mounting loads too much"
application.start()
for thread in threading.enumerate():
    if thread.name == "warm-up":
        thread.join(60)
assert "openai.resources.responses.responses" in sys.modules
application.close()
"""
    subprocess.run([sys.executable, "-c", code, f"sqlite:///{tmp_path / 'journal.db'}"], check=True, timeout=90)
