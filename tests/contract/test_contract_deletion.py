"""Deleting a thread: gone here at once, gone at the provider where a key is at hand, and the answer says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import requests
from sqlalchemy import func, select

from bf_plugin.journal.tables import metadata, runs
from bf_plugin.runtime.ids import new_thread_id
from bf_plugin.testing.deployment import APP_KEY, PROVIDER_KEY, Deployment
from bf_plugin.testing.gateway import RecordingGateway
from bf_plugin.testing.provider import Gate, text
from database import looking_into

Deploy = Callable[..., Deployment]


def delete(deployed: Deployment, thread_id: str, **headers: str) -> requests.Response:
    sent = {"X-Api-Key": APP_KEY, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return deployed.http.delete(deployed.url + f"/stream/create/assistants/threads/{thread_id}", headers=sent)


def kept(deployed: Deployment) -> list[str]:
    """Return the ids of what the provider would still give out."""
    provider = deployed.provider
    return [*(id_ for id_, one in provider.responses.items() if one.visible), *provider.conversations]


def talk(deployed: Deployment, *turns: str) -> dict[str, Any]:
    """Have a conversation; return its last run, which has ended."""
    thread: dict[str, Any] = {}
    for turn in turns:
        deployed.provider.script(f"About {turn}")
        run = deployed.start(turn, **thread)
        deployed.events(run)
        thread = {"thread_id": run["threadId"]}
    deployed.gateway.wait_for(lambda: deployed.stop(run)["status"] == "already_completed")
    wait_until_free(deployed, run)
    return run


def wait_until_free(deployed: Deployment, run: dict[str, Any]) -> None:
    """Wait until a run's row says that it has ended: its `end` is sent a little earlier."""
    ended = select(runs.c.id).where(runs.c.id == run["runId"], runs.c.state == "ended")

    def is_free() -> bool:
        with looking_into(deployed.settings) as connection:
            return connection.execute(ended).first() is not None

    deployed.gateway.wait_for(is_free)


def test_deleting(deployed: Deployment) -> None:
    """A deleted thread is unknown to everything, with all of its runs."""
    run = talk(deployed, "tea", "coffee")

    answer = delete(deployed, run["threadId"], X_Provider_Key=PROVIDER_KEY)

    assert answer.status_code == 200
    assert answer.json()["status"] == "deleted"
    key = {"X-Api-Key": APP_KEY}
    thread = {"X-Thread-Id": run["threadId"]}
    assert deployed.get(f"/threads/{run['threadId']}/messages", headers=key).status_code == 404
    assert deployed.get(f"/runs/{run['runId']}", headers=thread).status_code == 404
    assert deployed.get(f"/runs/{run['runId']}/events", headers=thread).status_code == 404
    assert deployed.stop(run)["status"] == "not_found"
    deployed.refused(404, deployed.body("More", thread_id=run["threadId"]))
    assert delete(deployed, run["threadId"]).status_code == 404


def test_nothing_is_left_in_the_journal(deployed: Deployment) -> None:
    """No row of the thread remains in any table."""
    run = talk(deployed, "tea")

    delete(deployed, run["threadId"], X_Provider_Key=PROVIDER_KEY)

    tables = [table for table in metadata.sorted_tables if table.name not in ("bf_schema", "bf_owners")]
    with looking_into(deployed.settings) as connection:
        counts = {table.name: connection.execute(select(func.count()).select_from(table)).scalar() for table in tables}
    assert len(counts) >= 7
    assert set(counts.values()) == {0}


@pytest.mark.parametrize("mode", ["responses", "conversation"])
def test_the_provider_deletes_it_too(deploy: Deploy, mode: str) -> None:
    """With the caller's key in `X-Provider-Key`, nothing of the thread remains at the provider."""
    deployed = deploy(state_mode=mode)
    run = talk(deployed, "tea", "coffee")

    answer = delete(deployed, run["threadId"], X_Provider_Key=PROVIDER_KEY)

    assert answer.json()["provider"] == "deleted"
    assert "message" not in answer.json()
    assert kept(deployed) == []


def test_with_the_operators_key(deploy: Deploy) -> None:
    """The operator's key needs no header."""
    deployed = deploy(api_keys=APP_KEY, openai_api_key=PROVIDER_KEY, messaging="http")
    run = talk_without_key(deployed)

    assert delete(deployed, run["threadId"]).json()["provider"] == "deleted"
    assert kept(deployed) == []


def talk_without_key(deployed: Deployment) -> dict[str, Any]:
    deployed.provider.script("Hello")
    run = deployed.start("Hi", apiKey=None)
    deployed.events(run)
    wait_until_free(deployed, run)
    return run


@pytest.mark.parametrize("headers", [{}, {"X_Provider_Key": "sk-another"}])
def test_without_the_key(deployed: Deployment, headers: dict[str, str]) -> None:
    """Without the key it is stored under, the thread is deleted here and the answer says what the provider keeps."""
    run = talk(deployed, "tea")

    answer = delete(deployed, run["threadId"], **headers).json()

    assert (answer["status"], answer["provider"]) == ("deleted", "kept")
    assert "X-Provider-Key" in answer["message"]
    assert len(kept(deployed)) == 1


def test_a_provider_that_fails(deployed: Deployment) -> None:
    """A provider that does not delete does not keep the thread here; the answer says so."""
    run = talk(deployed, "tea")
    deployed.provider.fault("status", status=500, on="delete")

    answer = delete(deployed, run["threadId"], X_Provider_Key=PROVIDER_KEY).json()

    assert (answer["status"], answer["provider"]) == ("deleted", "kept")
    assert answer["message"] == "the provider did not delete all of it"


def test_what_has_expired_is_gone(deployed: Deployment) -> None:
    """A response the provider does not know any more counts as deleted."""
    run = talk(deployed, "tea")
    deployed.provider.fault("status", status=404, on="delete")

    assert delete(deployed, run["threadId"], X_Provider_Key=PROVIDER_KEY).json()["provider"] == "deleted"


def test_nothing_to_delete(deploy: Deploy) -> None:
    """In local mode the provider keeps nothing."""
    deployed = deploy(state_mode="local")
    run = talk(deployed, "tea")

    assert delete(deployed, run["threadId"], X_Provider_Key=PROVIDER_KEY).json()["provider"] == "deleted"


def test_a_run_under_way(deployed: Deployment) -> None:
    """While a run is under way: 409 with `Retry-After`, and nothing is deleted."""
    gate = Gate()
    deployed.provider.script(text("So far ", gate))
    run = deployed.start("Hi")
    deployed.wait_for_text(run, "So far ")

    answer = delete(deployed, run["threadId"], X_Provider_Key=PROVIDER_KEY)

    assert (answer.status_code, answer.headers["Retry-After"]) == (409, "1")
    gate.release()
    deployed.events(run)  # a run that is merely ending is waited for: a page that has seen `end` may delete at once
    assert delete(deployed, run["threadId"], X_Provider_Key=PROVIDER_KEY).status_code == 200


def test_whose_thread(deploy: Deploy) -> None:
    """No key: 401. A thread the app does not have, or nobody: 404, the same."""
    deployed = deploy(gateway=RecordingGateway(keys=[APP_KEY, "BFAPI_other"]))
    run = talk(deployed, "tea")

    theirs = delete(deployed, run["threadId"], X_Api_Key="BFAPI_other")
    nobodys = delete(deployed, new_thread_id())

    assert delete(deployed, run["threadId"], X_Api_Key="").status_code == 401
    assert (theirs.status_code, nobodys.status_code) == (404, 404)
    assert theirs.json()["message"] == nobodys.json()["message"]
    assert delete(deployed, "nonsense").status_code == 404
    assert delete(deployed, run["threadId"]).status_code == 200
