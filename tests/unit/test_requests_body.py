"""Bytes to JSON objects."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bf_plugin.bodies import parse_json
from bf_plugin.bodies.body import MAX_DEPTH
from bf_plugin.errors import RequestError


def problem(body: bytes) -> str:
    with pytest.raises(RequestError) as caught:
        parse_json(body)
    assert caught.value.code == 400
    return caught.value.message


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "body is empty"),
        (b"  \n", "body is empty"),
        (b"[]", "body must be a JSON object"),
        (b"null", "body must be a JSON object"),
        (b'{"a": NaN}', "body is not JSON at line 1, column 7: NaN and Infinity are not JSON numbers"),
        (b'{"NaN": "NaN",\n -Infinity', "body is not JSON at line 2, column 2: Expecting property name"),
        (b'{"NaN": "NaN",\n "a": -Infinity}', "body is not JSON at line 2, column 7: NaN and Infinity"),
        (b'{"a": 1e999}', "body holds a number that is too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "body holds a number that is too large"),
        (b'{"a":\n "\xff"}', "body is not JSON at line 2, column 3: not UTF-8"),
        (b'{"a": 1}\n}', "body is not JSON at line 2, column 1: Extra data"),
    ],
)
def test_names_what_is_wrong_and_where(body: bytes, expected: str) -> None:
    """A body that is no JSON object is refused with the place where it stops being one."""
    assert problem(body).startswith(expected)


@pytest.mark.parametrize("comment", ["// optional", "/* optional */", "# optional"])
def test_says_that_json_has_no_comments(comment: str) -> None:
    """A comment, as in the published example, gets a sentence of its own."""
    text = f'{{\n  "a": 1, {comment}\n  "b": 2\n}}'
    assert problem(text.encode()).endswith(": JSON has no comments")
    assert (
        problem(f'{{\n  "a": 1 {comment}\n}}'.encode()) == "body is not JSON at line 2, column 10: JSON has no comments"
    )


def test_quotes_nothing_of_the_body() -> None:
    """The body may hold keys: no error repeats a part of it, nor does its chain."""
    with pytest.raises(RequestError) as caught:
        parse_json(b'{"apiKey": "sk-secret", oops}')
    assert "sk-secret" not in repr((caught.value.message, caught.value.errors))
    assert caught.value.__suppress_context__


def test_takes_a_byte_order_mark_and_the_last_of_repeated_keys() -> None:
    """What other parsers take is taken."""
    assert parse_json(b'\xef\xbb\xbf{"a": 1, "a": 2}') == {"a": 2}


def test_replaces_lone_surrogates_only() -> None:
    """A text cut in the middle of a character does not fail later; whole characters and escaped texts stay."""
    body = rb'{"a\ud83d": ["\ud83d\ude00 \ude00", "\\ud83d"]}'
    assert parse_json(body) == {"a\ufffd": ["\U0001f600 \ufffd", "\\ud83d"]}


def test_limits_nesting() -> None:
    """A body is refused beyond the limit, at whatever depth, and taken up to it."""
    deepest = b'{"a":' * (MAX_DEPTH - 1) + b"[]" + b"}" * (MAX_DEPTH - 1)
    assert parse_json(deepest)
    wide = json.dumps({"a": [[]] * 200}).encode()
    assert parse_json(wide)
    for body in (b'{"a":' + deepest + b"}", b"[" * 200_000, b'{"a":' * 200_000):
        assert problem(body) == "body is nested too deeply"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=15,
)


@settings(max_examples=60)
@given(st.dictionaries(st.text(), JSON))
def test_reads_what_json_writes(value: dict[str, object]) -> None:
    """Every object survives, escaped or not."""
    assert parse_json(json.dumps(value).encode()) == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value


@settings(max_examples=100)
@given(st.binary() | st.text(alphabet='{}[]":,\\u0123dD8eEnNaIty -./*#').map(str.encode))
def test_raises_nothing_but_request_errors(body: bytes) -> None:
    """Any bytes give an object or a RequestError."""
    outcome: object
    try:
        outcome = type(parse_json(body))
    except RequestError as error:
        outcome = error.code
    assert outcome in (dict, 400)
