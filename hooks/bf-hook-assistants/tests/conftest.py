"""The fixtures of these tests: a server that speaks the Assistants API, and gateways in front of it."""

from __future__ import annotations

import pytest

from assistants_support.server import AssistantsServer
from bf_plugin.testing import ProviderSimulator


@pytest.fixture
def server():
    """The server; at the end of the test nothing may have gone wrong in it, and no script be left."""
    with AssistantsServer() as running:
        yield running


@pytest.fixture(scope="session")
def openai_server():
    """What stands for OpenAI in all deployments."""
    with ProviderSimulator() as running:
        yield running


@pytest.fixture
def begin(deploy, server, openai_server):
    """Return a function that deploys with the engine pointed to the server, given settings of the engine."""

    def begin(section=None, **options):
        settings = {"base_url": server.url, "poll_seconds": 0.01, "cancel_seconds": 5, **(section or {})}
        return deploy(sections={"assistants": settings}, provider=openai_server, **options)

    return begin
