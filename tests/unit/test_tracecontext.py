"""W3C Trace Context: what is well formed passes as it is, everything else is as if it were not there."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bf_plugin.runtime.tracecontext import trace_context, trace_headers

IDS = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"
PARENT = f"00-{IDS}-01"


def test_a_trace_passes_as_it_is() -> None:
    """Both headers, and a parent without a state."""
    assert trace_context(PARENT, "rojo=00f067aa0ba902b7,congo=t61") == (PARENT, "rojo=00f067aa0ba902b7,congo=t61")
    assert trace_context(f" {PARENT}\t", None) == (PARENT, None)
    assert trace_headers(PARENT, None) == {"traceparent": PARENT}
    assert trace_headers(PARENT, "a=b") == {"traceparent": PARENT, "tracestate": "a=b"}
    assert trace_headers(None, None) == {}


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "00",
        PARENT.upper(),
        f"ff-{IDS}-01",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01",
        f"{PARENT}-more",
        f"{PARENT}\r\nX: y",
        f"0a-{IDS}-01more",
        f"00-{IDS}-1",
        f"00-{IDS}",
    ],
)
def test_what_is_no_parent_is_no_trace(header: str | None) -> None:
    """The state goes with it."""
    assert trace_context(header, "a=b") == (None, None)


@pytest.mark.parametrize("header", [f"cc-{IDS}-03", f"cc-{IDS}-01-what-the-future-will-be-like"])
def test_a_later_version_is_brought_down(header: str) -> None:
    """Of its flags only the one is kept that version 00 knows."""
    assert trace_context(header, None).traceparent == PARENT


@pytest.mark.parametrize(
    ("header", "state"),
    [
        ("a=b, c=d ,,e=f", "a=b,c=d,e=f"),
        ("tenant@vendor=x", "tenant@vendor=x"),
        ("", None),
        ("a", None),
        ("A=b", None),
        ("a=b=c", None),
        ("a=b\r\nX: y", None),
        ("a=\N{SNOWMAN}", None),
        (",".join(f"k{number}=v" for number in range(32)), ",".join(f"k{number}=v" for number in range(32))),
        (",".join(f"k{number}=v" for number in range(33)), None),
        (f"a={'x' * 255},b={'x' * 255}", None),
    ],
)
def test_a_state_is_whole_or_not_there(header: str, state: str | None) -> None:
    """A malformed one is dropped, and the parent stays."""
    assert trace_context(PARENT, header) == (PARENT, state)


@given(st.text(max_size=80) | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}.{0,3}"), st.text())
@example(PARENT, "a=b , c=d")
def test_what_comes_out_can_be_sent(traceparent: str, tracestate: str) -> None:
    """Whatever a caller sends, what is kept is one line of ASCII, and well formed."""
    once = trace_context(traceparent, tracestate)
    assert trace_context(*once) == once
    assert all(value.isascii() and value.isprintable() for value in once if value is not None)
