"""What every contract test runs under: both WSGI validators, around and inside, and a watch for secrets."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import pytest
from cryptography.fernet import Fernet
from werkzeug.middleware.lint import LintMiddleware

from bf_plugin.testing.deployment import PROVIDER_KEY, Deployment

Wsgi = Callable[..., Iterable[bytes]]

THREAD_ID = re.compile(r"\bthread_(?=[a-z_-]*[A-Z0-9])[A-Za-z0-9_-]{20,}")


class Linter:
    """Puts `wsgiref.validate` and werkzeug's lint around WSGI apps, and keeps what they complain about."""

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self._errors: list[io.StringIO] = []

    def __call__(self, app: Wsgi) -> Wsgi:
        """Return `app` between the validators and the server (or the middleware) that calls it."""
        checked: Wsgi = validator(LintMiddleware(_with_lines(app)))
        errors = io.StringIO()
        self._errors.append(errors)

        def linted(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            environ["wsgi.errors"] = errors
            return _Watched(self, checked, environ, start_response)

        return linted

    def complained(self, error: BaseException) -> None:
        """Keep what a validator raised; what the app itself raises is the app's affair."""
        if isinstance(error, (AssertionError, Warning)):
            self.complaints.append(repr(error))

    def all_complaints(self) -> list[str]:
        """Return everything the validators said, on `wsgi.errors` too."""
        return self.complaints + [text for errors in self._errors if (text := errors.getvalue())]


def _with_lines(app: Wsgi) -> Wsgi:
    """Give werkzeug's input stream the `readlines` that `wsgiref.validate` asks for one layer further in."""

    def with_lines(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        stream = environ["wsgi.input"]
        stream.readlines = lambda *_: list(iter(lambda: stream.readline(65536), b""))
        return app(environ, start_response)

    return with_lines


class _Watched:
    """An answer whose every step is watched for complaints."""

    def __init__(self, linter: Linter, app: Wsgi, environ: dict[str, Any], start_response: Callable[..., Any]) -> None:
        self._linter = linter
        self._answer = self._watch(lambda: app(environ, start_response))
        self._chunks = iter(self._answer)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk: bytes = self._watch(lambda: next(self._chunks))
        return chunk

    def close(self) -> None:
        """Close what the app returned, as a server does."""
        self._watch(self._answer.close)

    def _watch(self, step: Callable[[], Any]) -> Any:
        try:
            return step()
        except BaseException as error:
            self._linter.complained(error)
            raise


@pytest.fixture
def answers() -> list[str]:
    """Every answer of the endpoint in this test: status line, headers and body as text."""
    return []


@pytest.fixture
def linter() -> Linter:
    """The validators of this test."""
    return Linter()


@pytest.fixture
def database(request: pytest.FixtureRequest) -> dict[str, str]:
    """Return the settings of this test's database: an SQLite file, or what BF_TEST_DATABASE says ("postgres")."""
    if os.environ.get("BF_TEST_DATABASE") != "postgres":
        return {}
    return {"database_url": request.getfixturevalue("postgres_url"), "secret_key": Fernet.generate_key().decode()}


@pytest.fixture
def deploy(
    tmp_path: Path, answers: list[str], linter: Linter, database: dict[str, str]
) -> Iterator[Callable[..., Deployment]]:
    """Return a function that deploys the plugin between validators; they must have said nothing after the test."""
    with ExitStack() as stack:

        def make(**options: Any) -> Deployment:
            options = {"folder": tmp_path, **database, **options}
            outer: Callable[[Wsgi], Wsgi] = options.pop("wrap", lambda app: app)
            deployed = Deployment(wrap=lambda app: outer(linter(app)), inner=linter, **options)
            deployed.http.hooks["response"].append(
                lambda answer, **_: answers.append(f"{answer.headers} {answer.text}")
            )
            return stack.enter_context(deployed)

        yield make
    assert linter.all_complaints() == []


@pytest.fixture(autouse=True)
def _no_secret_leaks(caplog: pytest.LogCaptureFixture, answers: list[str]) -> Iterator[None]:
    """Errors: no key, and no part of a key, is ever in an answer or a log; thread ids are never logged."""
    caplog.set_level(0)
    yield
    log = "\n".join(
        record.getMessage() + str(record.exc_text or "")
        for phase in ("setup", "call")
        for record in caplog.get_records(phase)
        if not record.name.startswith("urllib3")  # the client of these tests
    )
    said = log + "\n".join(answers)
    for part in (PROVIDER_KEY[-8:], PROVIDER_KEY[:10], "BFAPI_", "sk-te"):
        assert part not in said
    assert THREAD_ID.search(log) is None
