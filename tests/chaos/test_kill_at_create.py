"""Kill -9 between a response's creation at the provider and its name's commit: nobody knows that response any more.

The next process asks again. Whoever keeps the conversation, the page is shown one answer, and the model what the page
was shown, whatever the lost response did behind our back.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from bf_plugin.testing.process import ServerProcess, Site
from bf_plugin.testing.provider import BrainRequest, Gate, reply, text


def serve(site: Site, mode: str) -> ServerProcess:
    return site.serve("bf-plugin", "serve", "--listen", "127.0.0.1:0", BF_STATE_MODE=mode)


class Model:
    """Answers with how often it was asked, and notes what it was shown; the lost answer comes when `gate` lets it."""

    def __init__(self, gate: Gate, lost: int) -> None:
        self.contexts: list[list[str]] = []
        self._gate = gate
        self._lost = lost

    def __call__(self, request: BrainRequest) -> Any:
        self.contexts.append([_short(item) for item in request.context])
        number = len(self.contexts)
        return reply(text(self._gate, "lost") if number == self._lost else text(f"answer {number}"))


def _short(item: Any) -> str:
    content = item["content"]
    return f"{item['role']}: {content if isinstance(content, str) else content[0]['text']}"


def killed_at_create(site: Site, server: ServerProcess, **payload: Any) -> None:
    """Start a run and kill its process once the provider has made the response, whose answer never comes."""
    made = len(site.provider.responses)
    site.provider.fault("hang", on="create", late=True, times=1)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(site.start, server.url, "Which way?", **payload)
        site.provider.wait_until(lambda: len(site.provider.responses) > made)
        server.kill()
        with pytest.raises(requests.ConnectionError):
            asked.result()


def newest_run(site: Site, number: int) -> dict[str, Any]:
    """Return what a page learns of the run that is the site's `number`th: nobody heard its start's answer."""
    site.gateway.wait_for(lambda: len(site.gateway.events(type="threadInfo")) >= number, timeout=30)
    return dict(site.gateway.events(type="threadInfo")[number - 1])


def assert_whole(site: Site, run: dict[str, Any], text: str) -> None:
    events = site.events(run, timeout=30)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert site.gateway.text(run["runId"]) == text
    assert events[-1]["finish_reason"] == "stop"


def creates(site: Site) -> int:
    return sum(request.operation == "create" for request in site.provider.requests)


@pytest.mark.parametrize(
    ("mode", "over"),
    [("responses", True), ("conversation", True), ("conversation", False), ("local", True)],
    ids=["responses", "conversation", "conversation, the lost one still speaks", "local"],
)
def test_a_response_that_nobody_can_name(site: Site, mode: str, over: bool) -> None:
    """In the second run of a thread: the thread's state is known, what the lost response added to it is not."""
    gate = Gate()
    model = site.provider.brain = Model(gate, lost=2)
    first = serve(site, mode)
    before = site.start(first.url, "Where am I?")
    assert_whole(site, before, "answer 1")
    if over:
        gate.release()
    killed_at_create(site, first, thread_id=before["threadId"])
    if over:
        site.provider.wait_until(lambda: all(one.over for one in site.provider.responses.values()))

    second = serve(site, mode)
    if not over:
        site.provider.wait_until(lambda: creates(site) == 3, timeout=60)  # refused: the conversation is locked
        gate.release()

    run = newest_run(site, 2)
    assert run["threadId"] == before["threadId"]
    assert_whole(site, run, "answer 3")
    after = site.start(second.url, "And now?", thread_id=before["threadId"])
    assert_whole(site, after, "answer 4")
    asked = ["user: Where am I?", "assistant: answer 1", "user: Which way?"]
    assert model.contexts == [asked[:1], asked, asked, [*asked, "assistant: answer 3", "user: And now?"]]


def test_the_first_response_of_a_thread(site: Site) -> None:
    """There is no state at all, the conversation that was made is lost too: another one is begun."""
    model = site.provider.brain = Model(Gate(), lost=1)
    killed_at_create(site, serve(site, "conversation"))

    serve(site, "conversation")

    assert_whole(site, newest_run(site, 1), "answer 2")
    assert model.contexts == [["user: Which way?"]] * 2
