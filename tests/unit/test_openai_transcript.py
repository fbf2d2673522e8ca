"""Each character is handed on once, whatever a connection repeats, skips or leaves out."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bf_plugin.engines.openai.transcript import LOST, Transcript
from bf_plugin.errors import ProviderError

FIRST, SECOND = (0, 0), (1, 0)


def test_deltas_join() -> None:
    """On the first connection each delta is new."""
    transcript = Transcript()

    assert [transcript.add(FIRST, "Hel"), transcript.add(FIRST, "lo")] == ["Hel", "lo"]
    assert (transcript.text(FIRST), transcript.length(), transcript.parts()) == ("Hello", 5, [FIRST])


def test_a_full_text_brings_what_is_missing() -> None:
    """A server without deltas still delivers."""
    transcript = Transcript()
    transcript.add(FIRST, "Hel")

    assert [
        transcript.settle(FIRST, "Hello"),
        transcript.settle(FIRST, "Hello"),
        transcript.settle(SECOND, "!"),
    ] == ["lo", "", "!"]


def test_without_a_reconnect_the_deltas_are_believed() -> None:
    """A server that trims its final text has lost nothing."""
    transcript = Transcript()
    transcript.add(FIRST, " Hello ")

    assert transcript.settle(FIRST, "Hello") == ""
    assert transcript.text(FIRST) == " Hello "


def test_the_same_text_under_another_index_is_not_said_twice() -> None:
    """Deltas and closing events of one text may be numbered differently."""
    transcript = Transcript()
    transcript.add(FIRST, "Hello")

    assert transcript.settle(SECOND, "Hello") == ""
    assert transcript.align([SECOND]) == {SECOND: FIRST}


def test_after_a_reconnect_a_contradiction_is_a_loss() -> None:
    """Other text than was seen means another response."""
    transcript = Transcript({FIRST: "Hello"})

    with pytest.raises(ProviderError) as caught:
        transcript.settle(FIRST, "Hullo")

    assert caught.value.code == LOST


def test_a_snapshot_may_lag_behind() -> None:
    """A response under way may show less than was streamed, a finished one may not."""
    transcript = Transcript({FIRST: "Hello"})

    assert transcript.settle(FIRST, "Hel", final=False) == ""
    with pytest.raises(ProviderError):
        transcript.settle(FIRST, "Hel")


def test_a_stream_that_goes_on_exactly() -> None:
    """Deltas right behind the cursor go to the end, new parts start at their top."""
    transcript = Transcript({FIRST: "Hel"})
    transcript.resumed()

    assert [transcript.add(FIRST, "lo"), transcript.add(SECOND, "next")] == ["lo", "next"]


def test_a_stream_that_repeats_an_item() -> None:
    """Known text is compared and left out, also when a repeated delta reaches beyond it."""
    transcript = Transcript({FIRST: "Hello"})
    transcript.started(0)

    assert [transcript.add(FIRST, text) for text in ("Hel", "lo wo", "rld")] == ["", " wo", "rld"]


def test_a_repetition_that_differs_is_a_loss() -> None:
    """A repeated item must say the same."""
    transcript = Transcript({FIRST: "Hello"})
    transcript.started(0)

    with pytest.raises(ProviderError):
        transcript.add(FIRST, "Hul")


def test_a_stream_that_skips_is_not_believed_until_a_full_text() -> None:
    """After a gap nobody knows where a delta belongs."""
    transcript = Transcript({FIRST: "Hel"})

    assert transcript.add(FIRST, "world") == ""
    assert transcript.settle(FIRST, "Hello world") == "lo world"


def test_a_later_part_waits_for_what_an_earlier_one_misses() -> None:
    """Text goes out in order, so a hole holds up what follows it."""
    transcript = Transcript({FIRST: "Hel"})
    transcript.started(1)

    assert transcript.add(SECOND, "next") == ""
    assert [transcript.settle(FIRST, "Hello"), transcript.settle(SECOND, "next one")] == ["lo", "next one"]


def test_a_hole_that_can_no_longer_be_filled_is_a_loss() -> None:
    """Text of an earlier part cannot follow that of a later one."""
    transcript = Transcript({SECOND: "later"})

    with pytest.raises(ProviderError):
        transcript.settle(FIRST, "earlier")


def test_halves_of_a_pair_in_two_deltas() -> None:
    """A delta that ends in the first half waits as a whole for the second; alone it is replaced."""
    transcript = Transcript()

    assert [
        transcript.add(FIRST, "a\ud83d", ragged=True),
        transcript.add(FIRST, "\ude00b", ragged=True),
        transcript.add(FIRST, "c\ud83d", ragged=True),
        transcript.add(FIRST, "d"),
    ] == ["", "a😀b", "", "c\ufffdd"]


def test_a_half_of_an_item_that_is_told_again() -> None:
    """What waited for its other half comes again too, after a reconnect: it is not joined to the item's top."""
    transcript = Transcript()
    handed_on = [transcript.add(FIRST, "ab", ragged=True), transcript.add(FIRST, "c\ud83d", ragged=True)]
    transcript.reconnected()
    transcript.started(FIRST[0])

    handed_on += [transcript.add(FIRST, text, ragged=True) for text in ("ab", "c\ud83d", "\ude00d")]

    assert "".join(handed_on) == "abc😀d"


@settings(max_examples=60, deadline=None)
@given(
    text=st.text(st.characters(codec="utf-8"), min_size=1, max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=8),
    broken_at=st.integers(0, 60),
    behaviour=st.sampled_from(["exact", "repeats", "skips", "polled"]),
)
def test_every_character_once_over_a_reconnect(text: str, cuts: list[int], broken_at: int, behaviour: str) -> None:
    """However the second connection behaves, what is handed on joins to the text."""
    known = text[:broken_at]
    transcript = Transcript()
    handed_on = transcript.add(FIRST, known)
    transcript.reconnected()
    if behaviour == "exact":
        transcript.resumed()
    elif behaviour == "repeats":
        transcript.started(0)
    start = {"exact": len(known), "repeats": 0, "skips": len(known) + 2, "polled": len(text)}[behaviour]
    places = sorted({start, *(cut for cut in cuts if start < cut < len(text)), max(start, len(text))})
    for begin, end in itertools.pairwise(places):
        handed_on += transcript.add(FIRST, text[begin:end])
    handed_on += transcript.settle(FIRST, text)

    assert text == handed_on
