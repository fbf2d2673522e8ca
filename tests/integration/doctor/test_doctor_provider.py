"""`bf-plugin doctor`: the provider, its keys and its models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bf_plugin.doctor import asking
from bf_plugin.testing.deployment import PROVIDER_KEY
from bf_plugin.testing.gateway import GatewayServer, RecordingGateway
from bf_plugin.testing.provider import ProviderSimulator
from examinations import BAD_PROVIDER_KEY, Report, examine

pytestmark = pytest.mark.usefixtures("alone")


def asked(provider: ProviderSimulator, **environ: str) -> Report:
    return examine(**{"BF_OPENAI_BASE_URL": provider.base_url, "BF_OPENAI_API_KEY": PROVIDER_KEY, **environ})


def test_keys_and_models_are_known(provider: ProviderSimulator, tmp_path: Path) -> None:
    """Each key once, each model with the settings that name it."""
    (tmp_path / "apps.toml").write_text(
        f"[apps.a]\napi_keys = ['one']\n[apps.a.assistants.asst_1]\nmodel = 'gpt-other'\n"
        f"[apps.b]\napi_keys = ['two']\nopenai_api_key = '{BAD_PROVIDER_KEY}'\nmodel = 'gpt-test'\n",
        encoding="utf-8",
    )

    report = asked(provider, BF_APPS_FILE=str(tmp_path / "apps.toml"), BF_MODEL="gpt-test")

    assert report.of("provider", "ok")[1:] == [
        "BF_OPENAI_API_KEY is accepted",
        "model gpt-other (apps.a.assistants.asst_1.model) is known",
        "model gpt-test (BF_MODEL) is known",
    ]
    assert "apps.b.openai_api_key is refused (401) -> correct apps.b.openai_api_key" in report.failure("provider")
    assert not [request for request in provider.requests if (request.body or {}).get("model")]


def test_a_model_nobody_knows(provider: ProviderSimulator) -> None:
    """It is named with the setting it stands in, and with what it may have been meant to be."""
    report = asked(provider, BF_MODEL="gpt-tset")

    assert (
        "model gpt-tset (BF_MODEL) is not known, or not to this key -> correct BF_MODEL; known are gpt-test"
        in report.failure("provider")
    )


def test_a_key_is_refused(provider: ProviderSimulator) -> None:
    """The provider quotes the key in its refusal; the doctor does not."""
    assert "BF_OPENAI_API_KEY is refused (401)" in asked(provider, BF_OPENAI_API_KEY=BAD_PROVIDER_KEY).failure(
        "provider"
    )


def test_a_restricted_key(provider: ProviderSimulator) -> None:
    """A key that may not read the list of models is no bad key."""
    provider.fault(
        "status", on="models", status=403, message="Insufficient permissions. Missing scopes: api.model.read."
    )

    report = asked(provider, BF_MODEL="gpt-test")

    assert report.failures == []
    assert report.of("provider", "skipped") == [
        "BF_OPENAI_API_KEY: whether models are known: the key may not read the list of models"
    ]


@pytest.mark.parametrize("status", [404, 405])
def test_a_server_without_a_list_of_models(provider: ProviderSimulator, status: int) -> None:
    """What cannot be told is no failure; a bad key is found out elsewhere."""
    provider.fault("status", on="models", status=status)

    report = asked(provider, BF_MODEL="gpt-test")

    assert report.failures == []
    assert report.of("provider", "skipped") == [
        f"BF_OPENAI_API_KEY: whether models are known: GET /models answers {status}"
    ]
    assert "is refused" in asked(provider, BF_OPENAI_API_KEY=BAD_PROVIDER_KEY).failure("provider")


def test_a_server_without_responses(provider: ProviderSimulator) -> None:
    """A base URL without its path, or a server that only has chat completions."""
    report = asked(provider, BF_OPENAI_BASE_URL=provider.base_url.removesuffix("/v1"))

    assert "has no /responses (404) -> correct BF_OPENAI_BASE_URL: its path is often /v1" in report.failure("provider")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"name": "status", "status": 503}, "it answers 503"),
        ({"name": "status", "status": 307}, "it redirects (307)"),
        ({"name": "status", "status": 429}, "is limited now (429) -> wait"),
        ({"name": "drop"}, "no connection"),
        ({"name": "hang"}, "no answer within"),
    ],
)
def test_a_provider_that_is_not_well(
    provider: ProviderSimulator, monkeypatch: pytest.MonkeyPatch, fault: dict[str, Any], said: str
) -> None:
    """What is wrong with it is said, with where to look."""
    monkeypatch.setattr(asking, "TIMEOUT", 0.5)
    provider.fault(fault.pop("name"), on="models", **fault)

    text = asked(provider).failure("provider")

    assert said in text
    assert " -> " in text


def test_a_provider_that_cannot_be_reached() -> None:
    """No server, no URL, no key that can be sent: each by what is wrong."""
    environ = {"BF_OPENAI_API_KEY": PROVIDER_KEY}
    assert "no connection" in examine(BF_OPENAI_BASE_URL="http://127.0.0.1:1", **environ).failure("provider")
    assert "this is not a URL" in examine(BF_OPENAI_BASE_URL="localhost", **environ).failure("provider")
    strange = examine(BF_OPENAI_BASE_URL="http://127.0.0.1:1", BF_OPENAI_API_KEY="sk-schlüssel-…")
    assert "characters that cannot be sent" in strange.failure("provider")


def test_a_key_is_not_sent_on(provider: ProviderSimulator) -> None:
    """A server that redirects gets the key, the one it leads to does not."""

    def elsewhere(environ: Any, start_response: Any) -> list[bytes]:
        start_response("307 Temporary Redirect", [("Location", provider.base_url + environ["PATH_INFO"])])
        return [b""]

    with GatewayServer(RecordingGateway(), app=elsewhere) as server:
        report = asked(provider, BF_OPENAI_BASE_URL=server.url)

    assert "it redirects (307)" in report.failure("provider")
    assert provider.requests == []


def test_callers_bring_their_keys(provider: ProviderSimulator) -> None:
    """Without a key of the operator's only the server is looked at."""
    report = asked(provider, BF_OPENAI_API_KEY="", BF_MODEL="gpt-test")

    assert report.of("provider", "ok") == [f"{provider.base_url} answers"]
    assert report.of("provider", "skipped") == ["keys and models: no provider key is configured, callers bring theirs"]
    assert {request.key for request in provider.requests} == {None}


def test_passwords_of_the_netrc_are_not_sent(
    provider: ProviderSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`requests` would put one in place of the key."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password hunter2\n", encoding="utf-8")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    assert asked(provider).failures == []
    assert {request.key for request in provider.requests} == {PROVIDER_KEY}
