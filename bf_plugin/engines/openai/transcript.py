"""What is known of a response's text, so that every character is handed on once.

While the first connection lasts, deltas simply join. After a reconnect servers differ: some go on exactly, some skip
events, some start an item again from its top. So a delta is then used only where its place in the text is known, and
text that was missed comes from the full texts that closing events and the response object carry.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from bf_plugin.errors import ProviderError
from bf_plugin.runtime.text import well_formed

Part = tuple[int, int]
"""The (output, content) indexes of a text."""

LOST = "provider_lost_response"


def lost(why: str) -> ProviderError:
    """Return the error for a response that can no longer be followed."""
    return ProviderError(f"the provider lost the response: {why}", code=LOST)


class Transcript:
    """The text of one response by part. `known` is what an earlier connection, or process, has handed on."""

    def __init__(self, known: Mapping[Part, str] | None = None) -> None:
        self._texts: dict[Part, io.StringIO] = {}
        self._held: dict[Part, str] = {}
        self._settled: set[Part] = set()
        self._interrupted = False
        self._positions: dict[Part, int] = {}
        self._started: set[int] = set()
        self._gapless = False
        for part, text in (known or {}).items():
            self._write(part, text)
        if known:
            self.reconnected()

    def parts(self) -> list[Part]:
        """Return the parts that have text, in order."""
        return sorted(self._texts)

    def text(self, part: Part) -> str:
        """Return the text of a part so far."""
        buffer = self._texts.get(part)
        return buffer.getvalue() if buffer is not None else ""

    def align(self, parts: Sequence[Part]) -> dict[Part, Part]:
        """Return under which part each text of a response object is known: its own, but for servers that number the
        deltas in one way and the object in another, where their order decides.
        """
        if self._texts and not self._texts.keys() & set(parts):
            return {**{part: part for part in parts}, **dict(zip(parts, self.parts(), strict=False))}
        return {part: part for part in parts}

    def length(self) -> int:
        """Return the number of characters of all parts."""
        return sum(buffer.tell() for buffer in self._texts.values())

    def add(self, part: Part, text: str, *, ragged: bool = False) -> str:
        """Take a delta and return what is new of it. Raises ProviderError when it contradicts what is known."""
        if ragged or self._held:
            text = self._whole(part, text)
        if self._interrupted:
            text = self._beyond(part, text)
        if text:
            self._write(part, text)
        return text

    def settle(self, part: Part, full: str, *, final: bool = True) -> str:
        """Take the full text of a part and return what is missing of it.

        `final` is false for a response still under way, whose text may lag behind what was streamed. Raises
        ProviderError on a contradiction after a reconnect; before one the deltas are believed, since servers trim or
        renumber what they repeat at the end.
        """
        full, known = well_formed(full), self.text(part)
        self._held.pop(part, None)
        if final:
            self._settled.add(part)
        if full.startswith(known):
            return self._tail(part, full, known)
        if not self._interrupted or (not final and known.startswith(full)):
            return ""
        raise lost("its text is not the text already received")

    def reconnected(self) -> None:
        """Forget where the stream stands; `resumed` and `started` tell where it stands now."""
        self._interrupted = True
        self._positions.clear()
        self._started.clear()
        self._gapless = False

    def resumed(self) -> None:
        """The new connection goes on exactly after the last event of the old one."""
        self._positions = {part: buffer.tell() for part, buffer in self._texts.items()}
        self._gapless = True

    def started(self, output: int) -> None:
        """The new connection tells an output item from its top."""
        self._positions = {part: at for part, at in self._positions.items() if part[0] != output}
        self._held = {part: text for part, text in self._held.items() if part[0] != output}
        self._started.add(output)

    def _tail(self, part: Part, full: str, known: str) -> str:
        tail = full[len(known) :]
        if not tail:
            return ""
        if not known and not self._interrupted and full in map(self.text, self._texts):
            return ""  # the same text under another index: deltas and closing events of some servers disagree
        if self._interrupted and any(other > part for other in self._texts):
            raise lost("text of an earlier part is missing")
        self._write(part, tail)
        return tail

    def _write(self, part: Part, text: str) -> None:
        buffer = self._texts.get(part)
        if buffer is None:
            buffer = self._texts[part] = io.StringIO()
        buffer.write(text)

    def _whole(self, part: Part, text: str) -> str:
        """Return the text with what was held before it. One that ends in half a character is held as a whole: what is
        handed on, and the cursor behind it, must not part in the middle of a delta.
        """
        text = self._held.pop(part, "") + text
        if text and "\ud800" <= text[-1] <= "\udbff":
            self._held[part] = text
            return ""
        return well_formed(text)

    def _beyond(self, part: Part, text: str) -> str:
        """Return what of a delta lies beyond the known text, nothing where its place is not known."""
        positions = self._positions
        at = positions.get(part, 0 if self._gapless or part[0] in self._started else None)
        if at is None or self._behind(part):
            positions.pop(part, None)
            self._started.discard(part[0])
            return ""
        known = self._texts[part].tell() if part in self._texts else 0
        positions[part] = at + len(text)
        if at >= known:
            return text
        overlap = self.text(part)[at : at + len(text)]
        if not text.startswith(overlap):
            raise lost("its text is not the text already received")
        return text[len(overlap) :]

    def _behind(self, part: Part) -> bool:
        """Tell whether an earlier part may still miss text, which has to go out first."""
        return any(
            other < part and other not in self._settled and self._positions.get(other, -1) < buffer.tell()
            for other, buffer in self._texts.items()
        )
