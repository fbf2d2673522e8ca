"""The demo in headless Chromium, used as a person would."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from bf_plugin.demo.server import Demo


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    """The demo with its simulated provider, whatever the environment says, at a quick pace."""
    with pytest.MonkeyPatch.context() as environment:
        for name in ("OPENAI_API_KEY", "BF_OPENAI_BASE_URL", "BF_DATABASE_URL"):
            environment.delenv(name, raising=False)
        with Demo(pace=0.01) as running:
            yield running


class Chat:
    """The page as a person sees it."""

    def __init__(self, page: Page, demo: Demo) -> None:
        self.page = page
        self.demo = demo
        self.problems: list[str] = []
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", self._note_foreign)
        page.goto(demo.url)
        self.input = page.get_by_label("Message")
        self.answer = page.locator(".message.assistant").last
        self.send = page.get_by_role("button", name="Send")
        self.stop = page.get_by_role("button", name="Stop")
        expect(self.input).to_be_focused(timeout=20_000)  # then the page is ready

    def _note_foreign(self, request: object) -> None:
        url = str(getattr(request, "url", ""))
        if not url.startswith((self.demo.url, "data:")):
            self.problems.append(f"asked {url}")

    def say(self, text: str) -> None:
        """Send a message, and wait until the page has taken it."""
        messages = self.page.locator(".message")
        count = messages.count()
        self.input.fill(text)
        self.input.press("Enter")
        expect(messages).to_have_count(count + 2)

    def ask(self, text: str) -> str:
        """Send a message, wait for the end of the answer and return its text."""
        self.say(text)
        return self.finished()

    def finished(self) -> str:
        expect(self.send).to_be_visible(timeout=20_000)
        return self.text()

    def text(self) -> str:
        return "".join(self.answer.locator(".text").all_text_contents())

    def wait_for_text(self, length: int) -> None:
        script = """length => [...document.querySelectorAll(".message.assistant:last-child .text")]
                    .reduce((sum, part) => sum + part.textContent.length, 0) >= length"""
        self.page.wait_for_function(script, arg=length)

    def accent(self) -> str | None:
        return self.page.locator("html").get_attribute("data-accent")


def generated(demo: Demo, last: int = 1) -> str:
    """Return what the provider said in its last responses."""
    assert demo.provider is not None
    return "".join(response.text for response in list(demo.provider.responses.values())[-last:])


@pytest.fixture
def chat(browser: Browser, demo: Demo) -> Iterator[Chat]:
    context = browser.new_context()
    chat = Chat(context.new_page(), demo)
    yield chat
    assert chat.problems == []
    context.close()


def test_streams_an_answer(chat: Chat, demo: Demo) -> None:
    """The text grows while it comes and ends as what the provider generated."""
    chat.page.evaluate("""() => {
      window.lengths = new Set();
      new MutationObserver(() => window.lengths.add(document.querySelector(".assistant .text")?.textContent.length))
        .observe(document.getElementById("conversation"), { subtree: true, childList: true, characterData: true });
    }""")
    assert chat.ask("Tell me something 🦄") == generated(demo)
    assert chat.page.evaluate("window.lengths.size") > 5
    expect(chat.page.locator(".message.user")).to_have_text(re.compile("Tell me something 🦄"))


def test_shows_a_tool_between_text(chat: Chat, demo: Demo) -> None:
    """A server-side tool has a chip, in its place between what was said before and after."""
    text = chat.ask("What's the weather like in San Francisco?")
    assert text == generated(demo, last=2)
    assert "San Francisco" in text
    expect(chat.answer.locator(".chip.done")).to_have_text("Looking up the weather")
    assert chat.answer.locator(".body > *").evaluate_all("parts => parts.map((part) => part.className)") == [
        "text",
        "chips",
        "text",
    ]


def test_stops_in_mid_stream_and_goes_on(chat: Chat, demo: Demo) -> None:
    """The stop button ends the answer at what came before it, and the conversation works afterwards."""
    chat.say("Tell me a long story")
    chat.wait_for_text(100)
    chat.stop.click()
    text = chat.finished()
    assert 100 <= len(text) < 4000
    assert generated(demo).startswith(text)
    expect(chat.answer).to_contain_text("Stopped.")
    assert "Tell me a long story" in chat.ask("What did I say first?")


def test_page_tool_does_something_visible(chat: Chat) -> None:
    """A `ui_` tool changes the page, and its answer reaches the model."""
    assert chat.accent() is None
    text = chat.ask("Make this page teal")
    assert chat.accent() == "teal"
    assert "The page is teal now." in text
    chat.ask("Confetti, please")
    expect(chat.page.locator(".confetti")).to_be_attached()


def test_shows_an_error_event_and_tries_again(chat: Chat, demo: Demo) -> None:
    """A run that fails keeps its text, says why, and can be tried again."""
    chat.ask("Start to answer, then fail")
    alert = chat.answer.get_by_role("alert")
    expect(alert).to_contain_text("The answer failed")
    expect(alert).to_contain_text("The demo was asked to fail.")
    alert.get_by_role("button", name="Try again").click()
    expect(chat.page.locator(".message.user")).to_have_count(2)
    expect(chat.answer.get_by_role("alert")).to_contain_text("The answer failed", timeout=10_000)
    assert chat.ask("Hello again") == generated(demo)


def test_shows_a_start_that_was_refused(chat: Chat) -> None:
    """A start that is answered with an HTTP error shows the gateway's words and the status."""
    chat.page.evaluate("sessionStorage.setItem('bfAssistantThread', 'thread_' + 'x'.repeat(28))")
    chat.page.reload()
    chat.input.fill("Hello")
    chat.input.press("Enter")
    alert = chat.answer.get_by_role("alert")
    expect(alert).to_contain_text("HTTP 404")
    alert.get_by_role("button", name="New conversation").click()
    expect(chat.page.locator(".message.user")).to_have_count(1)
    expect(chat.answer.get_by_role("alert")).to_have_count(0)
    assert "Hello" in chat.finished()


def test_continues_after_a_reload(chat: Chat) -> None:
    """After a reload the conversation is still shown and the model still knows it; a new one starts empty."""
    first = chat.ask("My cat is called Ada")
    chat.page.reload()
    expect(chat.page.locator(".message")).to_have_count(2)
    assert chat.text() == first
    assert "My cat is called Ada" in chat.ask("What did I say first?")
    chat.page.get_by_role("button", name="New conversation").click()
    expect(chat.page.locator(".message")).to_have_count(0)
    assert "Ada" not in chat.ask("What did I say first?")


def test_survives_a_reload_in_mid_stream(chat: Chat, demo: Demo) -> None:
    """A page that is reloaded while an answer comes ends with all of it."""
    chat.say("Count to 150")
    chat.wait_for_text(50)
    chat.page.reload()
    provider = demo.provider
    assert provider is not None
    provider.wait_until(lambda: list(provider.responses.values())[-1].status == "completed", timeout=60)
    chat.wait_for_text(len(generated(demo)))  # a page just loaded may not have taken its run up yet
    assert chat.finished() == generated(demo)


def test_finds_its_gateway_again(chat: Chat, demo: Demo) -> None:
    """An error of a proxy in front of the gateway does not cut the page off for ever."""
    failing = True

    def proxy(route: Route) -> None:
        if failing:
            route.fulfill(status=502, body="Bad Gateway")
        else:
            route.continue_()

    chat.page.route("**/gateway/events*", proxy)
    chat.page.reload()
    expect(chat.page.locator("#status-text")).to_contain_text("Connection lost")
    failing = False
    assert chat.ask("Tell me something") == generated(demo)


def test_works_by_keyboard_alone(chat: Chat, demo: Demo) -> None:
    """Shift+Enter breaks lines, Enter sends, Escape stops, everything can be reached and shows its focus."""
    keyboard = chat.page.keyboard
    expect(chat.input).to_be_focused()
    keyboard.type("Tell me a long story")
    keyboard.press("Shift+Enter")
    keyboard.type("about the sea")
    keyboard.press("Enter")
    chat.wait_for_text(40)
    keyboard.press("Escape")
    assert generated(demo).startswith(chat.finished())
    expect(chat.page.locator(".message.user .text")).to_have_text("Tell me a long story\nabout the sea")
    reached = {}
    for _ in range(4):
        keyboard.press("Shift+Tab")
        focus = "() => [document.activeElement.id, getComputedStyle(document.activeElement).outlineStyle]"
        name, outline = chat.page.evaluate(focus)
        reached[name] = outline
    assert reached["theme"] == reached["new"] == "solid"


def test_prompts_work_by_keyboard(chat: Chat) -> None:
    """A suggested prompt is a button that sends itself and gives the focus back to the input."""
    chat.page.get_by_role("button", name="Make this page teal").focus()
    chat.page.keyboard.press("Enter")
    assert "teal" in chat.finished()
    expect(chat.input).to_be_focused()


def test_announces_answers(chat: Chat) -> None:
    """Screen readers hear the whole answer once, when it is there, rather than each word."""
    text = chat.ask("Hello")
    announcer = chat.page.locator("[aria-live=polite]")
    assert announcer.text_content() == text
    expect(chat.answer).to_have_attribute("aria-busy", "false")


def test_shows_markup_as_text(chat: Chat) -> None:
    """What a user or a model writes is never taken for HTML."""
    chat.ask("<img src=x onerror=alert(1)><b>bold</b>")
    assert chat.page.locator("#conversation img, #conversation b").count() == 0
    assert "<b>bold</b>" in chat.text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_follows_the_system_and_the_switch(browser: Browser, demo: Demo, scheme: str) -> None:
    """Light and dark follow the system until the switch says otherwise, over a reload too."""
    context = browser.new_context(color_scheme="light" if scheme == "light" else "dark")
    page = context.new_page()
    page.goto(demo.url)
    lightness = "() => parseFloat(getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/)[0])"
    page.emulate_media(reduced_motion="reduce")
    assert (page.evaluate(lightness) > 0.5) == (scheme == "light")
    page.get_by_role("button", name="Switch between light and dark").click()
    page.reload()
    page.wait_for_selector("html[data-theme]")
    assert (page.evaluate(lightness) > 0.5) == (scheme == "dark")
    context.close()


def test_fits_a_phone(browser: Browser, demo: Demo) -> None:
    """On a phone nothing scrolls sideways, whatever is said, and the controls are big enough to touch."""
    context = browser.new_context(viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    chat = Chat(context.new_page(), demo)
    overflow = "() => document.documentElement.scrollWidth > innerWidth || scroller.scrollWidth > scroller.clientWidth"
    assert not chat.page.evaluate(overflow)
    chat.input.fill("x" * 300 + " and then fail")
    chat.send.tap()
    chat.finished()
    assert not chat.page.evaluate(overflow)
    boxes = [button.bounding_box() for button in (chat.send, chat.page.get_by_role("button", name="New conversation"))]
    assert all(box and min(box["width"], box["height"]) >= 40 for box in boxes)
    assert chat.problems == []
    context.close()
