"""What the demo brain says: plain paragraphs without markup, some of them with characters beyond the basic plane."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

_OPENINGS = (
    "Good question! ✨",
    "Let me think out loud for a moment. 🤔",
    "Happy to help. 😊",
    "Here is what I can say about that. 🧭",
    "Thanks for asking! 🙌",
)
_MIDDLES = (
    (
        "I am a simulated model, so I have no opinions of my own, but I can show you how an answer arrives: word by "
        "word, each one numbered and delivered in its place. If the connection hiccups, nothing is lost and nothing "
        "comes twice."
    ),
    (
        "No network was harmed in the making of this sentence. Everything you see travels the same path as with a real "
        "provider: the engine reads the stream, hooks may look at it, and the page puts the pieces together. 🧩"
    ),
    (
        "A long time ago, answers came all at once, after a wait nobody enjoyed. Today they trickle in like rain on a "
        "warm roof, and you may close the tap whenever you like: press stop and see. 🌧️"
    ),
    (
        "Characters are trickier than they look. Some need two code units (𝒶, 🚀, 🦄), some families need many more "
        "(👩‍👩‍👧‍👦), and all of them should reach you in one piece, naïve café included."
    ),
)
_CLOSINGS = (
    "Try asking me about the weather in two cities, or say “count to 100”. 🚀",
    "Ask me what you said first, and you will see that I remember. 🐘",
    "You could also ask for a darker theme, if this page offers one. 🎨",
    "Is there anything else you would like to know? 🌱",
)
_STORY = (
    "Once upon a time there was a delta who wanted to see the world. ",
    "It left the model early, before the other tokens were awake, and slid down a long cable to the sea. ",
    "“Who are you?” asked the first proxy. “I am only a word,” said the delta, “but I know my place in the line.” 🐚 ",
    "So the proxy wrote its number in a big book, as proxies do, and let it pass. ",
    "Night fell, a connection broke, and for a while there was nothing but silence and the ticking of a timer. 🌙 ",
    "But the big book remembered, and in the morning the delta went on exactly where it had stopped. ",
)


def answer(said: str, earlier: int) -> str:
    """Return paragraphs about nothing, the same for the same message; `earlier` counts the user's messages before."""
    seed = zlib.crc32(said.encode("utf-8", "replace")) + earlier
    remembered = f" By the way, this is message {earlier + 1} of our conversation." if earlier else ""
    quoted = f"You wrote: “{said[:200]}”." if said else "You sent no text, but I noticed you anyway."
    return (
        f"{_OPENINGS[seed % len(_OPENINGS)]} {quoted}{remembered}\n\n{_MIDDLES[seed // 5 % len(_MIDDLES)]}\n\n"
        f"{_CLOSINGS[seed // 20 % len(_CLOSINGS)]}"
    )


def story(chapters: int = 12) -> str:
    """Return a long text."""
    return "\n\n".join(f"Chapter {number}. {''.join(_STORY)}" for number in range(1, chapters + 1))


def counting(end: int) -> str:
    """Return the numbers from one."""
    return ", ".join(str(number) for number in range(1, end + 1)) + ". Phew! 🏁"


def told(results: Sequence[tuple[str, str]]) -> str:
    """Return a sentence for each tool's name and output."""
    return " ".join(_told(name, output) for name, output in results) + " ✅"


def _told(name: str, output: str) -> str:
    try:
        value = json.loads(output)
    except ValueError:
        return f"{name} says: {output}."
    if isinstance(value, Mapping):
        if "error" in value:
            return f"Unfortunately {name} did not work: {_flat(value['error'])}."
        return f"{name} says: {', '.join(f'{key} {_flat(part)}' for key, part in value.items())}."
    return f"{name} says: {_flat(value)}."


def _flat(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
