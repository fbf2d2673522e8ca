from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bf_plugin.runtime.logs import (
    GONE,
    JsonFormatter,
    RunLogger,
    TextFormatter,
    configure,
    get_logger,
    redact,
    request_id,
)

THREAD_ID = "thread_gyaH0MFPwS7vohFlyusrNX0uFMxu"
TOOL_CALL_ID = "tool_-0qXYCwKKubDe7cDkJLdNLgSR4Mk"
RUN_ID = "run_p3P0HLodMUnY7lbVfeqEyVB7HnHI"

SECRETS = [
    "sk-proj-abcDEF0123456789_-abcDEF",
    "sk-abcd************wxyz",
    "BFAPI_1234abcd-ef56-7890",
    "thread_abc123",
    "q6ZkV5Z0J1l8mOQb0n3W0m0pWj9k2u3s4t5v6w7x8y0=",
    THREAD_ID,
    TOOL_CALL_ID,
]


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What a gateway's plain handler writes of the logger `bf_test`."""
    stream = io.StringIO()
    logger, handler = logging.getLogger("bf_test"), logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(funcName)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield stream
    logger.removeHandler(handler)


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    """The raw records a handler of a gateway sees."""
    seen: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record)

    logger, handler = logging.getLogger("bf_test"), Keep()
    logger.addHandler(handler)
    logger.propagate = False
    yield seen
    logger.removeHandler(handler)


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "frame", ["{}", "key {} refused", '{{"x": "{}"}}', "KeyError('{}')", "BF_SECRET_KEY={},", "a={}&b=1"]
)
def test_secrets_are_known_by_their_shape(secret: str, frame: str) -> None:
    """Keys and thread ids are removed wherever they stand, nobody having said what they are."""
    assert secret not in redact(frame.format(secret))
    assert GONE in redact(frame.format(secret))


@pytest.mark.parametrize(
    "text",
    [
        'apiKey": "hunter two", "channels"',
        "{'apiKey': 'hunter two'}",
        '{\\"apiKey\\": \\"hunter two\\"}',
        "X-Api-Key: hunter",
        "openai_api_key=hunter",
        "BF_API_KEYS=hunter",
        "Authorization: Basic hunter",
        "authorization: Bearer hunter",
        "Bearer hunter",
        "assistantThreadId: hunter",
        "postgresql+psycopg://user:hunter@db/x",
        "X-Thread-Id: hunter",
    ],
)
def test_named_values_go_whatever_their_shape(text: str) -> None:
    """A value that is called a key is one."""
    assert "hunter" not in redact(text)
    assert "two" not in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "thread_busy is reject",
        "a risk-free task-force",
        f"{RUN_ID} ended",
        "tool_timeout 60.0",
        "see https://example.com/docs#x",
        "payload.apiKey is required",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    """What is no secret is not touched, run ids included."""
    assert redact(text) == text


@settings(max_examples=100)
@given(secret=st.text(min_size=4), before=st.text(max_size=10), after=st.text(max_size=10))
def test_a_secret_that_was_named_goes_in_every_form(secret: str, before: str, after: str) -> None:
    """Explicit secrets may have any shape, and are found as JSON and repr write them too."""
    for text in (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1]):
        assert GONE in redact(before + text + after, [secret])
        if secret not in before + after + GONE:
            assert secret not in redact(" " + text + " ", [secret])


def test_an_empty_secret_changes_nothing() -> None:
    """A key that is not configured must not redact every position of a line."""
    assert redact("fine", [""]) == "fine"


def test_handlers_see_no_raw_value(records: list[logging.LogRecord]) -> None:
    """Neither the arguments nor the exception of a call reach a handler."""
    key = "no shape at all"
    log = RunLogger(logging.getLogger("bf_test")).bind(secrets=[key, None, ""])
    try:
        raise ValueError(f"bad {key}") from KeyError("sk-abcdefgh1234")
    except ValueError:
        log.exception("failed with %s", key)
    (record,) = records
    assert (record.args, record.exc_info) == ((), None)
    assert key not in repr(vars(record))
    assert "sk-abcdefgh1234" not in repr(vars(record))
    assert "ValueError: bad [redacted]" in str(record.exc_text)
    assert "KeyError" in str(record.exc_text)


def test_a_plain_handler_shows_message_ids_and_traceback(stream: io.StringIO) -> None:
    """The ids are in the line under a format that does not know them, and the caller is the one who logged."""
    log = get_logger("bf_test").bind(run_id="run_1").bind(request_id="req.1")
    log.info("done: %s 100%%", "yes")
    log.info("50% of it")
    log.warning("odd", error=ValueError("BFAPI_secret"))
    this = "test_a_plain_handler_shows_message_ids_and_traceback"
    assert stream.getvalue().splitlines() == [
        f"INFO {this} done: yes 100% [run=run_1 request=req.1]",
        f"INFO {this} 50% of it [run=run_1 request=req.1]",
        f"WARNING {this} odd [run=run_1 request=req.1]",
        "ValueError: [redacted]",
    ]


def test_a_value_cannot_forge_a_line(stream: io.StringIO) -> None:
    """Line breaks and other control characters in values are written as escapes."""
    get_logger("bf_test").error("name %s", "x\nERROR root owned\r\x1b[0m\u2028")
    get_logger("bf_test").debug("lone %s", "\ud800")
    assert stream.getvalue().splitlines() == [
        "ERROR test_a_value_cannot_forge_a_line name x\\nERROR root owned\\r\\x1b[0m\\u2028",
        "DEBUG test_a_value_cannot_forge_a_line lone \\ud800",
    ]


def test_disabled_levels_cost_no_formatting() -> None:
    """Below the level nothing is formatted."""

    class Loud:
        def __str__(self) -> str:
            raise AssertionError

    logger = logging.getLogger("bf_test_quiet")
    logger.setLevel(logging.ERROR)
    RunLogger(logger).info("%s", Loud())


def test_json_lines_have_fields(records: list[logging.LogRecord]) -> None:
    """A JSON line has the ids as fields and the message without them."""
    log = get_logger("bf_test").bind(run_id="run_1", request_id="r")
    log.error("bad \ud800", error=ValueError("sk-12345678"))
    line = json.loads(JsonFormatter().format(records[0]))
    assert line.pop("time").endswith("+00:00")
    assert line.pop("exception").splitlines()[-1] == "ValueError: [redacted]"
    assert line == {
        "level": "ERROR",
        "logger": "bf_test",
        "message": "bad \\ud800",
        "run_id": "run_1",
        "request_id": "r",
    }


def test_records_of_others_are_redacted_too() -> None:
    """In our own processes other libraries' lines pass our formatters."""
    try:
        raise ValueError("sk-12345678")
    except ValueError as error:
        exc_info = (ValueError, error, error.__traceback__)
    record = logging.LogRecord("other", logging.INFO, "f.py", 1, "key %s", ("BFAPI_x1",), exc_info)
    for formatter in (TextFormatter(), JsonFormatter()):
        line = formatter.format(record)
        assert "key [redacted]" in line
        assert "ValueError: [redacted]" in line


def test_configure_replaces_the_handlers_of_the_root(capsys: pytest.CaptureFixture[str]) -> None:
    """The command line's logging goes to standard error, in the form asked for."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    try:
        configure("json")
        logging.getLogger("anything").info("hello")
        configure("text")
        logging.getLogger("anything").info("hello")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    first, second = capsys.readouterr().err.splitlines()
    assert json.loads(first)["message"] == "hello"
    assert second.endswith("INFO anything: hello")


@pytest.mark.parametrize("header", ["a", "f0e1-22", "Root=1-5759e988:x/y+z@1.2_3", "x" * 128])
def test_a_well_formed_request_id_is_taken_over(header: str) -> None:
    """What can be echoed and logged as it is, is."""
    assert request_id(header) == header


@pytest.mark.parametrize(
    "header", [None, "", " ", "x" * 129, "a b", "a\nb", "a\n", 'a"b', "ä", "<x>", "BFAPI_12345", THREAD_ID]
)
def test_any_other_request_id_is_replaced(header: str | None) -> None:
    """What could break a line, or is a key, is not echoed."""
    made = request_id(header)
    assert made != header
    assert request_id(made) == made
    assert made != request_id(header)
