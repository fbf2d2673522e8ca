"""Several providers in one gateway: whose key goes where, what an engine may say of a run, what deleting means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from bf_plugin import ConfigurationError, RunDraft, hookimpl
from bf_plugin.engines.port import Access, StepRequest
from bf_plugin.errors import invalid
from bf_plugin.testing import ScriptedEngine, assert_events
from bf_plugin.testing.deployment import APP_KEY, PROVIDER_KEY, Deployment
from bf_plugin.testing.engine import ScriptedStream

Deploy = Callable[..., Deployment]
OPERATORS = "sk-operators-own-000000"


class OtherEngine(ScriptedEngine):
    """An engine that remembers whose keys it was given."""

    def __init__(self, *scripts: Any) -> None:
        super().__init__(*scripts)
        self.keys: list[str] = []

    async def start(self, request: StepRequest, access: Access) -> ScriptedStream:
        self.keys.append(access.api_key)
        return await super().start(request, access)


class CheckingEngine(OtherEngine):
    """An engine that looks at runs first."""

    stateless = True

    def __init__(self, *scripts: Any) -> None:
        super().__init__(*scripts)
        self.checked: list[tuple[str | None, str]] = []

    def check(self, run: RunDraft, access: Access) -> Sequence[str]:
        self.checked.append((run.instructions, access.api_key))
        if run.options.get("temperature", 0) > 1:
            raise invalid("payload.temperature", "must be at most 1 for provider other")
        return ["payload.top_p is ignored: there is no equivalent"] if "top_p" in run.options else []


class ToTheOther:
    """A plugin that takes every run to another provider."""

    @hookimpl
    def before_run(self, run: RunDraft) -> None:
        run.provider = "other"
        run.instructions = "Chosen for you."


def with_keys(**keys: str) -> dict[str, Any]:
    """Return settings with one app that has keys of providers."""
    return {"apps": {"portal": {"api_keys": [APP_KEY], "provider_keys": keys}}, "messaging": "http"}


def deleted(deployed: Deployment, path: str, **headers: str) -> dict[str, Any]:
    """Delete a thread, as soon as the row of its last run says that it has ended."""
    answers: list[dict[str, Any]] = []

    def delete() -> bool:
        answer = deployed.http.delete(path, headers=headers)
        answers.append(answer.json())
        return bool(answer.status_code != 409)

    deployed.gateway.wait_for(delete)
    return answers[-1]


def test_a_key_for_each_provider(deploy: Deploy) -> None:
    """An app's own key for a provider is used where the caller sends none, and for that provider only."""
    other = OtherEngine("Hello", "Hello")
    deployed = deploy(engines={"other": other}, **with_keys(other=OPERATORS))

    deployed.poll(provider="other", apiKey=None)
    deployed.poll(provider="other")
    error = deployed.refused(400, deployed.body(apiKey=None))

    assert other.keys == [OPERATORS, PROVIDER_KEY]
    assert list(error["errors"]) == ["payload.apiKey"]


def test_a_callers_key_stays_with_its_provider(deploy: Deploy) -> None:
    """Where a plugin chooses another provider, that never sees the key that was meant for the first."""
    other = OtherEngine("Hello", "Hello")
    deployed = deploy(engines={"other": other}, plugins=[ToTheOther()], **with_keys(other=OPERATORS))

    deployed.poll()
    deployed.poll(provider="other")

    assert other.keys == [OPERATORS, PROVIDER_KEY]


def test_the_operators_key_that_a_plugin_brings_in_opens_listed_files_only(deploy: Deploy) -> None:
    """A caller's key for one provider gives no way to the operator's files at another."""
    deployed = deploy(engines={"other": OtherEngine()}, plugins=[ToTheOther()], **with_keys(other=OPERATORS))
    content = [{"type": "input_file", "file_id": "file-secret"}]

    error = deployed.refused(403, deployed.body(messages=[{"role": "user", "content": content}]))

    assert list(error["errors"]) == ["payload.messages.0.content.0.file_id"]


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"othr": "k"}, "apps.portal.provider_keys.othr: .* installed are: .*openai"),
        ({"openai": "k"}, "openai_api_key"),
    ],
)
def test_keys_that_would_never_be_used(deploy: Deploy, keys: dict[str, str], told: str) -> None:
    """A key for a provider that is not there, or that has a setting of its own, is found at the start."""
    with pytest.raises((ConfigurationError, ValueError), match=told):
        deploy(**with_keys(**keys)).application.start()


def test_an_engine_looks_at_runs_first(deploy: Deploy) -> None:
    """After `before_run` and before anything exists, an engine may warn or refuse; warnings are answered and logged."""
    other = CheckingEngine("Hello", "Hello")
    deployed = deploy(engines={"other": other})

    run = deployed.start(provider="other", instructions="Be kind.", top_p=0.5)
    error = deployed.refused(400, deployed.body(provider="other", temperature=1.5))
    polled = deployed.poll(provider="other")

    assert run["warnings"] == ["payload.top_p is ignored: there is no equivalent"]
    assert_events(deployed.events(run), "threadInfo delta+ end", text="Hello")
    assert (error["message"], list(error["errors"])) == (
        "payload.temperature must be at most 1 for provider other",
        ["payload.temperature"],
    )
    assert "warnings" not in polled
    assert other.checked == [("Be kind.", PROVIDER_KEY), (None, PROVIDER_KEY), (None, PROVIDER_KEY)]
    assert len(other.requests) == 2


def test_an_engine_sees_what_plugins_made_of_a_run(deploy: Deploy) -> None:
    """Without any key it is told so, and may refuse."""
    other = CheckingEngine("Hello")
    deploy(engines={"other": other}, plugins=[ToTheOther()]).poll()
    assert other.checked == [("Chosen for you.", "")]


def test_deleting_a_thread_of_two_providers(deploy: Deploy) -> None:
    """What the first provider keeps is deleted there, though the newest run was at another, which keeps nothing."""
    deployed = deploy(engines={"other": CheckingEngine("And hello")})
    deployed.provider.script("Hello")
    first = deployed.poll("Hi")
    thread = deployed.poll("Hi again", provider="other", thread_id=first["threadId"])["threadId"]
    path = f"{deployed.url}/stream/create/assistants/threads/{thread}"
    headers = {"X-Api-Key": APP_KEY, "X-Provider-Key": PROVIDER_KEY}

    assert deleted(deployed, path, **headers)["provider"] == "deleted"
    assert [one for one in deployed.provider.responses.values() if one.visible] == []


def test_deleting_what_no_provider_keeps(deploy: Deploy) -> None:
    """Nothing is to be deleted at a provider that keeps nothing, and no key is needed."""
    deployed = deploy(engines={"other": CheckingEngine("Hello")})
    thread = deployed.poll(provider="other")["threadId"]
    path = f"{deployed.url}/stream/create/assistants/threads/{thread}"

    assert deleted(deployed, path, **{"X-Api-Key": APP_KEY})["provider"] == "nothing"
