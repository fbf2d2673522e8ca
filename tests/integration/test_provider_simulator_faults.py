from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from requests.exceptions import ChunkedEncodingError, ReadTimeout
from requests.exceptions import ConnectionError as Disconnected

from bf_plugin.testing import Gate, ProviderSimulator
from bf_plugin.testing.provider import SWITCHES, Fault, call, text

TEXT = text("1", "2", "3", "4", "5")
"""Deltas 5 to 9 of a background stream; its last event is number 13."""


@pytest.fixture
def provider() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as running:
        yield running


class Client:
    """Speaks HTTP to the simulator, without a library that hides what happens."""

    def __init__(self, provider: ProviderSimulator) -> None:
        self.session = requests.Session()
        self.session.headers["Authorization"] = "Bearer sk-test"
        self._base_url = provider.base_url

    def send(self, method: str, path: str, body: Any = None, **options: Any) -> requests.Response:
        return self.session.request(method, self._base_url + path, json=body, **{"timeout": 10, **options})

    def create(self, **body: Any) -> requests.Response:
        return self.send("POST", "/responses", {"model": "m", "input": "x", **body})

    def conversation(self) -> str:
        return str(self.send("POST", "/conversations", {}).json()["id"])

    def stream(self, **body: Any) -> list[dict[str, Any]]:
        return events(self.create(stream=True, **body).content)

    def resume(self, response_id: str, after: int) -> requests.Response:
        return self.send("GET", f"/responses/{response_id}", params={"stream": "true", "starting_after": after})


@pytest.fixture
def client(provider: ProviderSimulator) -> Iterator[Client]:
    made = Client(provider)
    with made.session:
        yield made


def events(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(frame.split(b"data: ", 1)[1]) for frame in body.split(b"\n\n") if frame]


def numbers(found: list[dict[str, Any]]) -> list[int]:
    return [payload["sequence_number"] for payload in found]


def error_of(answer: requests.Response) -> tuple[int, str | None, str | None]:
    details = answer.json()["error"]
    return answer.status_code, details["code"], details["param"]


def read_until_dropped(client: Client, **body: Any) -> bytes:
    answer = client.send("POST", "/responses", {"model": "m", "input": "x", "stream": True, **body}, stream=True)
    pieces: list[bytes] = []
    with pytest.raises(ChunkedEncodingError):
        pieces.extend(answer.iter_content(None))
    return b"".join(pieces)


def finished(provider: ProviderSimulator, client: Client) -> str:
    """Return the id of a completed background response with `TEXT`."""
    provider.script(TEXT)
    return str(client.stream(background=True)[-1]["response"]["id"])


def started(provider: ProviderSimulator, client: Client, gate: Gate) -> str:
    """Return the id of a background response that waits at `gate`."""
    provider.script(text("a", gate, "b"))
    made = client.create(background=True).json()["id"]
    gate.wait_reached()
    return str(made)


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "invalid_api_key"), (403, "unsupported_country_region_territory"), (429, "rate_limit_exceeded")],
)
def test_status(provider: ProviderSimulator, client: Client, status: int, code: str) -> None:
    """HTTP errors come with OpenAI's bodies, and stop coming after their times."""
    provider.fault("status", status=status, retry_after=7, times=1)
    refused = client.create()
    assert (refused.headers["Retry-After"], error_of(refused)) == ("7", (status, code, None))
    assert client.create().status_code == 200


@pytest.mark.parametrize("status", [500, 503])
def test_status_of_a_sick_server(provider: ProviderSimulator, client: Client, status: int) -> None:
    """Server errors come with a message and no code, on the operation named."""
    provider.fault("status", status=status, on="models")
    assert error_of(client.send("GET", "/models")) == (status, None, None)
    assert client.create().status_code == 200


def test_detail_error(provider: ProviderSimulator, client: Client) -> None:
    """Some servers answer errors in a shape of their own."""
    provider.fault("detail_error", status=422, detail="no")
    answer = client.create()
    assert (answer.status_code, answer.json()) == (422, {"detail": "no"})


@pytest.mark.parametrize("late", [False, True])
def test_drop(provider: ProviderSimulator, client: Client, late: bool) -> None:
    """The socket is dropped instead of an answer, before or after the request took effect."""
    provider.fault("drop", late=late, times=1)
    with pytest.raises(Disconnected):
        client.create(background=True)
    assert len(provider.responses) == late
    assert client.create().status_code == 200


@pytest.mark.parametrize("late", [False, True])
def test_hang(provider: ProviderSimulator, client: Client, late: bool) -> None:
    """The request is taken and never answered."""
    provider.fault("hang", late=late, times=1)
    with pytest.raises(ReadTimeout):
        client.send("POST", "/responses", {"model": "m", "input": "x", "background": True}, timeout=0.2)
    assert len(provider.responses) == late


def test_late_faults_of_other_operations(provider: ProviderSimulator, client: Client) -> None:
    """A cancel can take effect though its answer is lost."""
    gate = Gate()
    made = started(provider, client, gate)
    provider.fault("drop", on="cancel", late=True, times=1)
    with pytest.raises(Disconnected):
        client.send("POST", f"/responses/{made}/cancel")
    assert provider.responses[made].status == "cancelled"


def test_slow_accept(provider: ProviderSimulator, client: Client) -> None:
    """A request waits before anything is done."""
    gate, answers = Gate(), []
    provider.fault("slow_accept", gate=gate, times=1)
    thread = threading.Thread(target=lambda: answers.append(client.create()))
    thread.start()
    gate.wait_reached()
    assert (answers, dict(provider.responses)) == ([], {})
    gate.release()
    thread.join(10)
    assert answers[0].status_code == 200


@pytest.mark.parametrize("param", ["background", "stream_options", "metadata"])
def test_refuse_parameter(provider: ProviderSimulator, client: Client, param: str) -> None:
    """A server refuses a parameter by name; requests without it pass."""
    provider.fault("refuse_parameter", param=param)
    body = {"background": True, "stream": True, "stream_options": {"include_obfuscation": False}, "metadata": {}}
    assert error_of(client.create(**body)) == (400, "unknown_parameter", param)
    del body[param]
    assert client.create(**body).status_code == 200


def test_refuse_parameter_without_a_name(provider: ProviderSimulator, client: Client) -> None:
    """Some servers name the parameter in the text only."""
    provider.fault("refuse_parameter", named=False, code=None, message="{param} is not supported")
    answer = client.create(background=True)
    assert error_of(answer) == (400, None, None)
    assert answer.json()["error"]["message"] == "background is not supported"


def test_refuse_background_stream(provider: ProviderSimulator, client: Client) -> None:
    """Some servers take background and stream, but not together."""
    provider.fault("refuse_background_stream")
    assert error_of(client.create(background=True, stream=True)) == (400, None, None)
    assert client.create(background=True).status_code == 200
    assert client.create(stream=True).status_code == 200


def test_conversation_locked(provider: ProviderSimulator, client: Client) -> None:
    """A conversation says for a while that it is locked."""
    provider.fault("conversation_locked", times=2)
    conversation = client.conversation()
    answers = [client.create(conversation=conversation) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [400, 400, 200]
    assert error_of(answers[0]) == (400, "conversation_locked", None)


def test_previous_response_expired(provider: ProviderSimulator, client: Client) -> None:
    """A stored response expires; so does one that a test makes invisible."""
    made = client.create().json()["id"]
    provider.fault("previous_response_expired", times=1)
    expected = (400, "previous_response_not_found", "previous_response_id")
    assert error_of(client.create(previous_response_id=made)) == expected
    assert client.create(previous_response_id=made).status_code == 200
    provider.responses[made].visible = False
    assert error_of(client.create(previous_response_id=made)) == expected


@pytest.mark.parametrize(
    ("name", "method", "path"),
    [
        ("no_conversations", "POST", "/conversations"),
        ("no_conversations", "GET", "/conversations/conv_1/items"),
        ("no_retrieve", "GET", "/responses/{made}"),
        ("no_retrieve", "GET", "/responses/{made}?stream=true"),
        ("no_cancel", "POST", "/responses/{made}/cancel"),
    ],
)
@pytest.mark.parametrize("status", [404, 405])
def test_missing_operations(
    provider: ProviderSimulator, client: Client, name: str, method: str, path: str, status: int
) -> None:
    """Some servers have a part of the API only."""
    made = finished(provider, client)
    provider.fault(name, status=status)
    assert client.send(method, path.format(made=made)).status_code == status
    assert client.create().status_code == 200


QUIRKS = [
    "no_sequence_numbers",
    "sequence_from_one",
    "no_text_done",
    "no_created",
    "incomplete_completed",
    "no_usage",
    "null_conversation",
    "output_when_done",
    "lone_surrogates",
]


@pytest.mark.parametrize("name", QUIRKS)
def test_quirks_hold_for_one_response(provider: ProviderSimulator, client: Client, name: str) -> None:
    """A quirk of the events holds for the next response and not for the one after."""
    fault = provider.fault(name, times=1)
    client.stream()
    (odd,) = provider.responses.values()
    client.stream()
    even = list(provider.responses.values())[-1]
    assert (list(odd.quirks), list(even.quirks), fault.used) == ([name], [], 1)


def test_unknown_events(provider: ProviderSimulator, client: Client) -> None:
    """Events nobody knows come in between, with numbers of their own."""
    provider.fault("unknown_events", type="keepalive", times=1)
    provider.script(TEXT)
    found = client.stream()
    assert numbers(found) == list(range(len(found)))
    assert [payload["type"] == "keepalive" for payload in found[:-1]] == [False, True] * 12
    assert found[-1]["type"] == "response.completed"


def test_resuming_counts_from_one_too(provider: ProviderSimulator, client: Client) -> None:
    """Where events are numbered from 1, so is the cursor."""
    provider.fault("sequence_from_one", times=1)
    made = finished(provider, client)
    assert numbers(events(client.resume(made, 5).content)) == list(range(6, 15))


@pytest.mark.parametrize("keepalive", [None, 0.01])
def test_generation_hangs(provider: ProviderSimulator, client: Client, keepalive: float | None) -> None:
    """A response stops for good in the middle; keepalives may go on."""
    fault = provider.fault("generation_hangs", after=6, keepalive=keepalive, times=1)
    provider.script(TEXT)
    made = client.create(background=True).json()["id"]
    record = provider.responses[made]
    provider.wait_until(lambda: len(record.log.frames) >= 6)
    assert (record.text, record.status, fault.used) == ("1", "in_progress", 1)
    if keepalive:
        provider.wait_until(lambda: len(record.log.frames) >= 9)
        assert [payload["type"] for payload in events(b"".join(record.log.frames[6:9]))] == ["keepalive"] * 3
    assert client.send("POST", f"/responses/{made}/cancel").json()["status"] == "cancelled"


def test_stream_drops_after_events(provider: ProviderSimulator, client: Client) -> None:
    """The socket is dropped after an event; a background response goes on, a foreground one does not."""
    provider.fault("stream_drops", after=7)
    for background, status in ((True, "completed"), (False, "cancelled")):
        provider.script(TEXT)
        assert len(events(read_until_dropped(client, background=background))) == 7
        record = list(provider.responses.values())[-1]
        provider.wait_until(lambda record=record: record.over)  # type: ignore[misc]
        assert record.status == status


def test_stream_drops_after_bytes(provider: ProviderSimulator, client: Client) -> None:
    """The socket is dropped in the middle of an event, wherever that is."""
    provider.fault("stream_drops", after_bytes=1000, times=1)
    assert len(read_until_dropped(client)) == 1000


def test_a_dropped_foreground_response_can_survive(provider: ProviderSimulator, client: Client) -> None:
    """With `goes_on` a foreground response is completed though nobody reads it."""
    provider.fault("stream_drops", after=3, goes_on=True, times=1)
    read_until_dropped(client)
    (record,) = provider.responses.values()
    provider.wait_until(lambda: record.over)
    assert record.status == "completed"


def test_stream_ends(provider: ProviderSimulator, client: Client) -> None:
    """A stream ends as if all were well, without its last event."""
    provider.fault("stream_ends", times=2)
    assert client.stream()[-1]["type"] == "response.output_item.done"
    (record,) = provider.responses.values()
    assert record.status == "completed"
    made = finished_without_end(provider, client)
    assert numbers(events(client.resume(made, 12).content)) == [13]


def finished_without_end(provider: ProviderSimulator, client: Client) -> str:
    provider.script(TEXT)
    return str(client.stream(background=True)[0]["response"]["id"])


@pytest.mark.parametrize("keepalive", [None, 0.01])
def test_stream_hangs(provider: ProviderSimulator, client: Client, keepalive: float | None) -> None:
    """A stream falls silent while the response goes on, and can be read from another one."""
    provider.fault("stream_hangs", after=6, keepalive=keepalive, on="create", times=1)
    provider.script(TEXT)
    body = {"model": "m", "input": "x", "stream": True, "background": True}
    with client.send("POST", "/responses", body, stream=True) as answer:
        lines = (line for line in answer.iter_lines() if line.startswith(b"data: "))
        found = [json.loads(next(lines)[6:]) for _ in range(6)]
        (record,) = provider.responses.values()
        provider.wait_until(lambda: record.over)
        if keepalive:
            assert [json.loads(next(lines)[6:])["type"] for _ in range(2)] == ["keepalive"] * 2
        else:
            assert provider.open_streams == 1
        assert numbers(events(client.resume(record.id, found[-1]["sequence_number"]).content)) == list(range(6, 14))


@pytest.mark.parametrize("options", [{"size": 1}, {"positions": [10, 11, 2000]}, {"seed": 4}])
def test_chunking(provider: ProviderSimulator, client: Client, options: dict[str, Any]) -> None:
    """The bytes are cut anywhere, also within characters, and are the same bytes."""
    provider.script(text("😀", "ü"))
    provider.fault("chunking", **options, times=1)
    body = {"model": "m", "input": "x", "stream": True}
    answer = client.send("POST", "/responses", body, stream=True)
    pieces = list(answer.raw.read_chunked())
    (record,) = provider.responses.values()
    assert b"".join(pieces) == b"".join(record.log.frames)
    assert len(pieces) > 3
    if "size" in options:
        assert {len(piece) for piece in pieces} == {1}
    if "positions" in options:
        assert [len(piece) for piece in pieces[:2]] == [10, 1]


def test_plain_resume(provider: ProviderSimulator, client: Client) -> None:
    """A server that ignores ?stream=true answers with the response as JSON."""
    made = finished(provider, client)
    provider.fault("plain_resume", times=1)
    answer = client.resume(made, 3)
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.json()["id"] == made
    assert numbers(events(client.resume(made, 11).content)) == [12, 13]


def test_resume_shifted(provider: ProviderSimulator, client: Client) -> None:
    """A resumed stream starts late and repeats the present item from its top, in one of three ways."""
    made = finished(provider, client)
    provider.fault("resume_shifted", times=1)
    assert numbers(events(client.resume(made, 6).content)) == list(range(3, 14))
    provider.fault("resume_shifted", renumber=True, times=1)
    renumbered = events(client.resume(made, 6).content)
    assert numbers(renumbered) == list(range(9, 20))
    assert "".join(payload["delta"] for payload in renumbered if "delta" in payload) == "12345"
    provider.fault("resume_shifted", repeat=False, times=1)
    assert numbers(events(client.resume(made, 6).content)) == list(range(9, 14))


def test_resume_expired(provider: ProviderSimulator, client: Client) -> None:
    """A stream cannot be resumed for ever; the response can still be read."""
    made = finished(provider, client)
    provider.fault("resume_expired")
    assert client.resume(made, 3).status_code == 400
    assert client.send("GET", f"/responses/{made}").json()["status"] == "completed"


def test_endless_pages(provider: ProviderSimulator, client: Client) -> None:
    """A list says for ever that there is more, and starts over at its end."""
    conversation = client.conversation()
    client.create(conversation=conversation)
    provider.fault("endless_pages")
    path, seen, after = f"/conversations/{conversation}/items", [], None
    for _ in range(5):
        answer = client.send("GET", path, params={"limit": 1, "after": after}).json()
        assert answer["has_more"] is True
        after = answer["last_id"]
        seen.append(after)
    assert seen[0] == seen[2] == seen[4] != seen[1] == seen[3]


def test_cancel_completes(provider: ProviderSimulator, client: Client) -> None:
    """A response that was cancelled completes anyway."""
    gate = Gate()
    made = started(provider, client, gate)
    provider.fault("cancel_completes", times=1)
    assert client.send("POST", f"/responses/{made}/cancel").json()["status"] == "cancelled"
    gate.release()
    provider.wait_until(lambda: provider.responses[made].status == "completed")
    assert provider.responses[made].text == "ab"


@pytest.mark.parametrize("name", ["cancel_hangs_stream", "cancel_ends_stream"])
def test_streams_of_cancelled_responses(provider: ProviderSimulator, client: Client, name: str) -> None:
    """The stream of a cancelled response falls silent, or ends without a word."""
    gate = Gate()
    provider.script(text("a", gate, "b"))
    provider.fault(name, times=1)
    body = {"model": "m", "input": "x", "stream": True, "background": True}
    with client.send("POST", "/responses", body, stream=True) as answer:
        gate.wait_reached()
        (record,) = provider.responses.values()
        client.send("POST", f"/responses/{record.id}/cancel")
        if name == "cancel_hangs_stream":
            assert (provider.open_streams, record.log.closed) == (1, False)
        else:
            assert events(answer.content)[-1]["type"] == "response.output_text.delta"
    assert record.status == "cancelled"


def test_a_cancelled_stream_can_hang_with_keepalives(provider: ProviderSimulator, client: Client) -> None:
    """The hanging stream of a cancelled response may be kept alive."""
    gate = Gate()
    made = started(provider, client, gate)
    provider.fault("cancel_hangs_stream", keepalive=0.01)
    client.send("POST", f"/responses/{made}/cancel")
    record = provider.responses[made]
    before = len(record.log.frames)
    provider.wait_until(lambda: len(record.log.frames) > before + 2)
    assert b"keepalive" in record.log.frames[-1]


@pytest.mark.parametrize("locked", [False, True])
def test_commit_late(provider: ProviderSimulator, client: Client, locked: bool) -> None:
    """A conversation gets its items later than the stream says, locked or not until then."""
    conversation, gate = client.conversation(), Gate()
    provider.fault("commit_late", gate=gate, locked=locked, times=1)
    provider.script(call("f", call_id="call_x"))
    assert client.create(conversation=conversation).json()["status"] == "completed"
    output = [{"type": "function_call_output", "call_id": "call_x", "output": "x"}]
    early = client.create(conversation=conversation, input=output)
    expected = "Another process" if locked else "No tool call found for function call output with call_id call_x."
    assert early.json()["error"]["message"].startswith(expected)
    gate.release()
    provider.wait_until(lambda: len(provider.conversations[conversation].items) == 2)
    assert client.create(conversation=conversation, input=output).status_code == 200


@pytest.mark.parametrize(("calls", "kinds"), [(True, ["message", "function_call"]), (False, ["message"])])
def test_commit_on_cut(provider: ProviderSimulator, client: Client, calls: bool, kinds: list[str]) -> None:
    """A turn that was cut off leaves its message, and perhaps a call that nobody answered."""
    conversation, gate = client.conversation(), Gate()
    provider.fault("commit_on_cut", calls=calls, times=1)
    provider.script([call("f", call_id="call_x"), text(gate, "b")])
    made = client.create(conversation=conversation, background=True).json()["id"]
    gate.wait_reached()
    client.send("POST", f"/responses/{made}/cancel")
    assert [item["type"] for item in provider.conversations[conversation].items] == kinds
    answer = client.create(conversation=conversation)
    if calls:
        assert answer.json()["error"]["message"] == "No tool output found for function call call_x."
    else:
        assert answer.status_code == 200


@pytest.mark.parametrize("mode", ["conversation", "previous_response_id"])
def test_call_not_committed(provider: ProviderSimulator, client: Client, mode: str) -> None:
    """A call is seen in the stream but unknown afterwards, in both ways to keep a thread."""
    conversation = client.conversation()
    provider.fault("call_not_committed", times=1)
    provider.script(call("f", call_id="call_x"))
    body = {"conversation": conversation} if mode == "conversation" else {}
    made = client.stream(**body)[-1]["response"]
    assert made["output"][0]["call_id"] == "call_x"
    named = {mode: conversation if mode == "conversation" else made["id"]}
    output = {"type": "function_call_output", "call_id": "call_x", "output": "x"}
    message = client.create(**named, input=[output]).json()["error"]["message"]
    assert message == "No tool call found for function call output with call_id call_x."
    assert client.create(**named).status_code == 200


def test_every_switch_is_tested() -> None:
    """Each switch is named in this file; one without a test is a promise nobody checked."""
    source = Path(__file__).read_text()
    assert [name for name in SWITCHES if f'"{name}"' not in source] == []


def test_a_fault_tells_how_often_it_was_used(provider: ProviderSimulator, client: Client) -> None:
    """The returned fault counts, so that a test can see that it happened."""
    fault: Fault = provider.fault("status", status=503)
    for _ in range(3):
        client.create()
    provider.clear_faults("status")
    client.create()
    assert fault.used == 3
