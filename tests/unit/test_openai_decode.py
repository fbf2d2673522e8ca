"""Bytes of a stream become the same frames however the network cuts them."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bf_plugin.engines.openai.decode import BrokenStreamError, Decoder, Frame, TextDelta, loads
from bf_plugin.runtime.text import well_formed


def sse(kind: str, *, named: bool = True, end: str = "\n", **fields: Any) -> bytes:
    data = json.dumps({"type": kind, **fields})
    return ((f"event: {kind}{end}" if named else "") + f"data: {data}{end}{end}").encode()


def delta(text: str, sequence: int, **options: Any) -> bytes:
    return sse("response.output_text.delta", delta=text, sequence_number=sequence, **options)


def stream(*, named: bool = True, end: str = "\n") -> bytes:
    return b"".join(
        [
            sse("response.created", response={"id": "resp_1"}, sequence_number=0, named=named, end=end),
            b": a comment" + 2 * end.encode(),
            sse("response.reasoning.delta", delta={"odd": 1}, sequence_number=1, named=named, end=end),
            delta("Grüße 😀", 2, output_index=1, named=named, end=end),
            sse("keepalive", sequence_number=3, named=named, end=end),
            delta(" \ud83d", 4, output_index=1, named=named, end=end),
            sse("response.completed", response={"status": "completed"}, sequence_number=5, named=named, end=end),
            b"data: [DONE]" + 2 * end.encode(),
        ]
    )


def comparable(frames: list[Frame]) -> list[object]:
    return [
        ("delta", frame.delta, frame.output_index, frame.content_index, frame.sequence_number)
        if isinstance(frame, TextDelta)
        else frame
        for frame in frames
    ]


EXPECTED = [
    {"type": "response.created", "response": {"id": "resp_1"}, "sequence_number": 0},
    ("delta", "Grüße 😀", 1, 0, 2),
    ("delta", " \ud83d", 1, 0, 4),
    {"type": "response.completed", "response": {"status": "completed"}, "sequence_number": 5},
]


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_single_cut_gives_the_same_frames(named: bool, end: str) -> None:
    """Wherever one network read ends and the next begins, nothing changes."""
    data = stream(named=named, end=end)
    for place in range(len(data) + 1):
        decoder = Decoder()
        frames = [*decoder.feed(data[:place]), *decoder.feed(data[place:]), *decoder.flush()]

        assert comparable(frames) == EXPECTED, place


@settings(max_examples=60, deadline=None)
@given(cuts=st.sets(st.integers(0, len(stream(end="\r\n"))), max_size=40), end=st.sampled_from(["\n", "\r\n", "\r"]))
def test_any_cutting_gives_the_same_frames(cuts: set[int], end: str) -> None:
    """Any number of reads of any sizes gives the same frames and counts the same events."""
    data = stream(end=end)
    places = [0, *sorted(cuts), len(data)]
    decoder = Decoder()
    frames: list[Frame] = []
    for start, stop in itertools.pairwise(places):
        frames += decoder.feed(data[start:stop])
    frames += decoder.flush()

    assert comparable(frames) == EXPECTED
    assert decoder.heard == 5


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(max_size=20), max_size=8), ascii_only=st.booleans())
def test_deltas_arrive_as_they_were_sent(texts: list[str], ascii_only: bool) -> None:
    """Text survives, escaped or not, with line breaks and odd separators inside."""
    events = [{"type": "response.output_text.delta", "delta": text} for text in texts]
    data = "".join(f"event: {e['type']}\ndata: {json.dumps(e, ensure_ascii=ascii_only)}\n\n" for e in events)

    frames = Decoder().feed(data.encode())

    assert texts == [frame.delta for frame in frames if isinstance(frame, TextDelta)]


def test_keepalives_and_comments_are_not_heard() -> None:
    """What only keeps the connection open does not count as a sign of life."""
    decoder = Decoder()

    decoder.feed(b": ping\n\n" + sse("keepalive") + sse("keepalive", named=False) + b"event: ping\ndata: {}\n\n")

    assert decoder.heard == 0


def test_dropped_events_are_heard() -> None:
    """Events nobody decodes still show that the provider is alive."""
    decoder = Decoder()

    assert decoder.feed(b"event: response.reasoning.delta\ndata: not even JSON\n\n") == []
    assert decoder.heard == 1


def test_everything_is_decoded_after_a_reconnect() -> None:
    """The first sequence number counts, whatever event carries it."""
    frames = Decoder(everything=True).feed(sse("response.output_item.added", sequence_number=7, output_index=1))

    assert frames == [{"type": "response.output_item.added", "sequence_number": 7, "output_index": 1}]


def test_missing_and_null_fields_of_a_delta() -> None:
    """Servers leave indexes and numbers out, or send null."""
    bare = b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"a"}\n\n'
    null = bare.replace(b'"delta":"a"', b'"delta":"b","output_index":null,"sequence_number":null')

    assert comparable(Decoder().feed(bare + null)) == [("delta", "a", 0, 0, None), ("delta", "b", 0, 0, None)]


def test_a_delta_that_is_not_text_is_dropped() -> None:
    """A delta of another JSON type is no text."""
    assert Decoder().feed(sse("response.output_text.delta", delta={"a": 1})) == []


def test_both_error_shapes_and_an_error_without_type() -> None:
    """An error is an error by its event name, its type or its `error` field."""
    decoder = Decoder()
    flat = decoder.feed(sse("error", message="m", code="c"))
    nested = decoder.feed(b'event: error\ndata: {"error": {"message": "m", "type": "server_error"}}\n\n')
    bare = decoder.feed(b'data: {"error": {"message": "m"}}\n\n')
    own_type = decoder.feed(b'event: error\ndata: {"type": "server_error", "message": "m"}\n\n')

    assert flat == [{"type": "error", "message": "m", "code": "c"}]
    assert [frame["type"] for [frame] in (nested, bare, own_type) if isinstance(frame, dict)] == ["error"] * 3


def test_an_ending_without_blank_line_is_read() -> None:
    """The last event of a stream that is closed too early counts if it is whole."""
    decoder = Decoder()
    decoder.feed(sse("response.completed", response={})[:-2])

    assert decoder.flush() == [{"type": "response.completed", "response": {}}]


def test_half_an_event_at_the_end_is_nothing() -> None:
    """A truncated event is dropped."""
    decoder = Decoder()
    decoder.feed(sse("response.completed", response={})[:-12])

    assert decoder.flush() == []


def test_an_event_that_is_not_json_breaks_the_stream() -> None:
    """Text may have been lost, so the stream cannot be believed any more."""
    with pytest.raises(BrokenStreamError):
        Decoder().feed(b'event: response.output_text.delta\ndata: {"delta": \n\n')


def test_json_that_msgspec_refuses() -> None:
    """Lone surrogates and bytes that are no UTF-8 are read all the same."""
    assert loads(b'{"a": "\\ud83d"}') == {"a": "\ud83d"}
    assert loads(b'{"a": "\xff"}') == {"a": "\ufffd"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\ud83d\ude00b", "a😀b"),
        ("a\ud83db", "a\ufffdb"),
        ("\ude00", "\ufffd"),
        ("\ud83d\ud83d\ude00", "\ufffd😀"),
        ("\ufeffplain", "\ufeffplain"),
    ],
)
def test_clean_joins_pairs_and_replaces_halves(text: str, expected: str) -> None:
    """Pairs become one character, halves the replacement character."""
    assert expected == well_formed(text)
