"""Messages: their parts, their attachments, and what of the provider's storage they name."""

from __future__ import annotations

from typing import Any

import pytest

from bf_plugin.bodies import StartRequest, parse_start
from bf_plugin.errors import RequestError


def parse(*messages: Any, **payload: Any) -> StartRequest:
    return parse_start({"payload": {"messages": list(messages), **payload}})


def user(*content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content), **more}


def refused(message: Any, **payload: Any) -> dict[str, str]:
    with pytest.raises(RequestError) as caught:
        parse(message, **payload)
    assert caught.value.code == 400
    return caught.value.errors


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": "text", "text": "a"}, {"type": "text", "text": "a"}),
        ({"type": "input_text", "text": ""}, {"type": "text", "text": ""}),
        ({"type": "image_url", "image_url": {"url": "https://x/i"}}, {"type": "image", "url": "https://x/i"}),
        (
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
            {"type": "image", "url": "data:image/png;base64,AA==", "detail": "low"},
        ),
        (
            {"type": "image_file", "image_file": {"file_id": "f", "detail": "high"}},
            {"type": "image", "file_id": "f", "detail": "high"},
        ),
        (
            {"type": "input_image", "image_url": "http://x", "file_id": None, "detail": "auto"},
            {"type": "image", "url": "http://x", "detail": "auto"},
        ),
        ({"type": "input_image", "file_id": "f", "image_url": None}, {"type": "image", "file_id": "f"}),
        ({"type": "input_file", "file_id": "f"}, {"type": "file", "file_id": "f"}),
        ({"type": "input_file", "file_url": "https://x/f"}, {"type": "file", "url": "https://x/f"}),
        (
            {"type": "input_file", "file_data": "AA==", "filename": "a.pdf"},
            {"type": "file", "data": "AA==", "filename": "a.pdf"},
        ),
    ],
)
def test_parts(part: dict[str, Any], expected: dict[str, Any]) -> None:
    """Each kind of part, in both forms, has one neutral form."""
    assert parse(user(part)).messages[0]["content"] == [expected]


@pytest.mark.parametrize(
    ("part", "field", "expected"),
    [
        ("text", "", "must be an object"),
        ({"text": "a"}, ".type", "is required"),
        (
            {"type": "output_text", "text": "a"},
            ".type",
            "must be text, image_url, image_file, input_text, input_image or",
        ),
        ({"type": ["text"]}, ".type", "must be text"),
        ({"type": "text"}, ".text", "is required"),
        ({"type": "text", "text": None}, ".text", "must be a string"),
        ({"type": "image_url", "image_url": "https://x"}, ".image_url", "must be an object"),
        ({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, ".image_url.url", "must match"),
        ({"type": "image_url", "image_url": {"url": "https://x y"}}, ".image_url.url", "must match"),
        (
            {"type": "image_url", "image_url": {"url": "https://x", "detail": "x"}},
            ".image_url.detail",
            "must be 'auto'",
        ),
        ({"type": "image_file", "image_file": {"file_id": ""}}, ".image_file.file_id", "must not be empty"),
        ({"type": "input_image"}, ".file_id", "is required"),
        ({"type": "input_image", "image_url": "https://x", "file_id": "f"}, ".file_id", "must be null"),
        ({"type": "input_file"}, ".file_id", "is required"),
        ({"type": "input_file", "file_url": "ftp://x"}, ".file_url", "must match"),
        ({"type": "input_file", "file_url": "https://x", "file_id": "f"}, ".file_id", "must be null"),
    ],
)
def test_refused_parts(part: Any, field: str, expected: str) -> None:
    """No other kind of part, and nothing but http, https and data links; the part is named by its index."""
    assert refused(user({"type": "text", "text": "a"}, part))[f"payload.messages.0.content.1{field}"].startswith(
        expected
    )


@pytest.mark.parametrize(
    ("message", "field", "expected"),
    [
        ("Hi", "", "must be an object"),
        ({"content": "Hi"}, ".role", "is required"),
        ({"role": "tool", "content": "Hi"}, ".role", "must be 'user', 'assistant', 'system' or 'developer'"),
        ({"role": "user"}, ".content", "is required"),
        ({"role": "user", "content": ""}, ".content", "must not be empty"),
        ({"role": "user", "content": []}, ".content", "must not be empty"),
        ({"role": "user", "content": None}, ".content", "must be a string or an array of parts"),
        ({"role": "user", "content": {}}, ".content", "must be a string or an array of parts"),
        (user("a", attachments=[{}]), ".attachments.0.file_id", "is required"),
        (user("a", attachments=[{"file_id": "f", "tools": [{"type": "x"}]}]), ".attachments.0.tools.0.type", "must be"),
    ],
)
def test_refused_messages(message: Any, field: str, expected: str) -> None:
    """A bad message is named by its index."""
    assert refused(message)[f"payload.messages.0{field}"].startswith(expected)


@pytest.mark.parametrize(("count", "problem"), [(0, "must not be empty"), (101, "must have at most 100 entries")])
def test_number_of_messages(count: int, problem: str) -> None:
    """A start has 1 to 100 messages."""
    with pytest.raises(RequestError) as caught:
        parse(*[{"role": "user", "content": "a"}] * count)
    assert caught.value.errors == {"payload.messages": problem}
    assert len(parse(*[{"role": "user", "content": "a"}] * 100).messages) == 100


@pytest.mark.parametrize("role", ["user", "assistant", "system", "developer"])
def test_additional_messages_follow(role: str) -> None:
    """Additional messages come after the messages, every role is taken, and their ids count as named."""
    request = parse(
        {"role": role, "content": "a"},
        additional_messages=[user({"type": "input_file", "file_id": "f"})],
    )
    assert [message["role"] for message in request.messages] == [role, "user"]
    assert request.file_ids == {"f": "payload.additional_messages.0.content.0.file_id"}


def test_attachments_go_where_their_tools_say() -> None:
    """For file search (and by default) the message holds the file; for code interpreter the container does."""
    request = parse(
        user(
            {"type": "text", "text": "a"},
            attachments=[
                {"file_id": "f1", "tools": [{"type": "file_search"}]},
                {"file_id": "f2", "tools": [{"type": "code_interpreter"}]},
                {"file_id": "f3", "tools": [{"type": "file_search"}, {"type": "code_interpreter"}]},
                {"file_id": "f4"},
            ],
        )
    )
    files = [part for part in request.messages[0]["content"] if part["type"] == "file"]
    assert files == [{"type": "file", "file_id": name} for name in ("f1", "f3", "f4")]
    assert request.code_files == ("f2", "f3")
    assert list(request.file_ids) == ["f1", "f2", "f3", "f4"]
    assert request.file_ids["f2"] == "payload.messages.0.attachments.1.file_id"


def test_all_named_storage_is_found() -> None:
    """Every way to name a file, store or container is found, with the field that does."""
    request = parse(
        user({"type": "image_file", "image_file": {"file_id": "f1"}}, {"type": "input_image", "file_id": "f2"}),
        tools=[
            {"type": "file_search", "vector_store_ids": ["v1"]},
            {"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["f3"]}},
            {"type": "code_interpreter", "container": "c1"},
        ],
        tool_resources={"file_search": {"vector_store_ids": ["v1", "v2"]}, "code_interpreter": {"file_ids": ["f4"]}},
    )
    assert request.file_ids == {
        "f1": "payload.messages.0.content.0.image_file.file_id",
        "f2": "payload.messages.0.content.1.file_id",
        "f3": "payload.tools.1.container.file_ids.0",
        "f4": "payload.tool_resources.code_interpreter.file_ids.0",
    }
    assert request.vector_store_ids == {
        "v1": "payload.tools.0.vector_store_ids.0",
        "v2": "payload.tool_resources.file_search.vector_store_ids.1",
    }
    assert request.container_ids == {"c1": "payload.tools.2.container"}
    assert (request.search_stores, request.code_files) == (("v1", "v2"), ("f4",))
