"""Postgres, a browser, a certificate, distributions made for a test; `bf_plugin.testing` has the other fixtures."""

from __future__ import annotations

import logging
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from postgres_server import new_database, postgres_server, shared_name
from programs import chromium

os.environ["OTEL_SDK_DISABLED"] = "true"  # bf-hook-otel, where it is installed too, has nothing to say here


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Make distributions as an installer leaves them: a module and its metadata on the path."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    made = []

    def make(name: str, source: str, *, requires: str | None = None, **groups: str) -> None:
        """Install `name` with one module; `groups` are lines `left = right` of plugin, engine or messenger."""
        made.append(name)
        (site / f"{name}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        info = site / f"{name}-1.2.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n"
        metadata += f"Requires-Dist: {requires}\n" if requires else ""
        (info / "METADATA").write_text(metadata)
        full = {"plugin": "bf_plugin", "engine": "bf_plugin.engines", "messenger": "bf_plugin.messengers"}
        lines = [f"[{full[kind]}]\n{entry}\n" for kind, entry in groups.items()]
        (info / "entry_points.txt").write_text("\n".join(lines))

    yield make
    for name in made:  # and no other that is new: a warm-up may be importing it
        if str(site) in (getattr(sys.modules.get(name), "__file__", None) or ""):
            del sys.modules[name]


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Run in an empty directory, whatever the developer's environment says; logging is as before afterwards."""
    for name in [name for name in os.environ if name.startswith("BF_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """The Postgres server of all workers, started when the first test asks for it. Nobody may stop it."""
    with postgres_server(shared_name()) as server:
        yield server


@pytest.fixture
def postgres_url(postgres: Any) -> str:
    """The URL of a new, empty database."""
    return new_database(postgres)


@pytest.fixture(scope="module")  # and no longer: until it is closed, no test can run a loop of its own in this thread
def browser() -> Iterator[Any]:
    """Chromium, without a window."""
    from playwright.sync_api import sync_playwright

    installed = chromium()
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=installed.path, args=flags, env={**os.environ, **installed.environ}
        )
        yield running
        running.close()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return what `-n auto` means: one worker more than cores, since tests of servers and processes mostly wait."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let tests with browsers have another look: on a busy machine a page may be late. Those of tests/chaos wait."""
    for item in items:
        if "integration/chromium/" in item.nodeid:
            item.add_marker(pytest.mark.flaky(reruns=2))


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A file with a key and a certificate of its own for 127.0.0.1 and localhost."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "gateway")])
    now = datetime.now(timezone.utc)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    address = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1")), x509.DNSName("localhost")])
    certificate = builder.add_extension(address, critical=False).sign(key, hashes.SHA256())
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = tmp_path / "gateway.pem"
    file.write_bytes(key.private_bytes(*plain) + certificate.public_bytes(serialization.Encoding.PEM))
    return file
