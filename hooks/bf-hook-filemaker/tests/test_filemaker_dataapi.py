"""The Data API without a gateway: sessions, places, time, addresses, certificates."""

from __future__ import annotations

import datetime
import ipaddress
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from bf_hook_filemaker.plugin import FileMaker
from bf_hook_filemaker.settings import read
from bf_hook_filemaker.testing import Ended, FakeFileMaker, FakeServer, Received, Reply
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bf_plugin import ToolResult
from bf_plugin.items import FunctionTool
from bf_plugin.testing import new_call, new_draft, new_run

Sections = Callable[..., dict[str, Any]]


def order(plugin: FileMaker, number: int = 1001, **arguments: Any) -> ToolResult:
    """Call the tool as the gateway does."""
    answer = plugin.on_tool_call(new_run(), new_call("find_order", {"number": number, **arguments}))
    assert answer is not None
    return answer


def logins(server: FakeFileMaker) -> int:
    """Return how often somebody tried to log in."""
    return [request.path.rpartition("/")[2] for request in server.requests].count("sessions")


def test_calls_one_after_the_other_share_a_session(server: FakeFileMaker, section: Sections) -> None:
    """A login is made once."""
    plugin = FileMaker(read(section()))
    assert [order(plugin).is_error for _ in range(5)] == [False] * 5
    assert (logins(server), len(server.sessions)) == (1, 1)


def test_at_most_so_many_calls_at_once(server: FakeFileMaker, section: Sections, held: Any) -> None:
    """The third of two waits for its turn; each has a session of its own."""
    plugin = FileMaker(read(section(script="hold", connection={"concurrency": 2})))
    with ThreadPoolExecutor(3) as threads:
        calls = [threads.submit(order, plugin) for _ in range(3)]
        held.wait_started(2)
        assert len(server.sessions) == 2
        held.go.set()
        assert [call.result().output for call in calls] == ["done"] * 3
    assert (server.most_at_once, server.shared, logins(server)) == (2, False, 2)


def test_waiting_counts(server: FakeFileMaker, section: Sections, held: Any) -> None:
    """Whoever gets no place within the time of the tool was not called, and is told so."""
    settings = section(script="hold", connection={"concurrency": 1})
    settings["tools"]["echo"] = {**settings["tools"]["find_order"], "script": "echo", "timeout": 0.2}
    plugin = FileMaker(read(settings))
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(order, plugin)
        held.wait_started()
        answer = plugin.on_tool_call(new_run(), new_call("echo", {"number": 1001}))
        held.go.set()
        assert first.result().output == "done"
    assert answer == ToolResult(
        "Error: echo: it was not called, other calls left no room for it within 0.2 seconds. "
        "Try once more in a moment; if it fails again, tell the user.",
        is_error=True,
    )


def test_many_calls_never_share_a_session(server: FakeFileMaker, section: Sections) -> None:
    """With more threads than places, sessions go from call to call, and end now and then."""
    plugin = FileMaker(read(section(connection={"concurrency": 3})))
    server.fault("ends_sessions", times=5)
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: order(plugin), range(40)))
    assert {answer.is_error for answer in answers} <= {False, True}
    assert [answer.output for answer in answers if answer.is_error and "952" not in answer.output] == []
    assert not server.shared
    assert server.most_at_once <= 3


def test_a_session_that_was_idle_for_15_minutes_is_renewed(section: Sections) -> None:
    """As the guide has it: the counter starts again with each call."""
    now = [0.0]
    with FakeFileMaker({"find order": lambda _: "1"}, clock=lambda: now[0]) as server:
        settings = section()
        settings["connections"]["sales"] = server.connection()
        plugin = FileMaker(read(settings))
        for minutes, expected in ((14, 1), (14, 1), (15, 2)):
            assert not order(plugin).is_error
            now[0] += minutes * 60
            assert not order(plugin).is_error
            assert logins(server) == expected


def test_a_session_that_ends_again_at_once_is_given_up(server: FakeFileMaker, section: Sections) -> None:
    """It is renewed once, not for ever."""
    server.fault("ends_sessions", times=2)
    answer = order(FileMaker(read(section())))
    assert "the session is not valid (FileMaker error 952)" in answer.output
    assert logins(server) == 2


def test_a_refused_password_is_not_tried_again_at_once(server: FakeFileMaker, section: Sections) -> None:
    """A server locks accounts after some attempts, and a model may try many times."""
    plugin = FileMaker(read(section(connection={"password": "geheim"})))
    answers = {order(plugin).output for _ in range(5)}
    assert len(answers) == 1
    assert logins(server) == 1


def test_a_session_whose_call_got_no_answer_is_not_used_again(
    server: FakeFileMaker, section: Sections, held: Any
) -> None:
    """Its script may still run; another call would wait for it."""
    server.scripts["find order"] = lambda parameter: held(parameter) if "1001" in parameter else "1"
    plugin = FileMaker(read(section(timeout=0.3, connection={"concurrency": 1})))
    assert order(plugin, 1001).is_error
    assert order(plugin, 1002).output == 1
    assert (logins(server), server.shared) == (2, False)


def test_closing_logs_out(server: FakeFileMaker, section: Sections, held: Any) -> None:
    """Of free sessions at once, of the others when their calls are over; then nothing is called any more."""
    settings = section(connection={"concurrency": 2})
    settings["tools"]["hold"] = {**settings["tools"]["find_order"], "script": "hold"}
    plugin = FileMaker(read(settings))
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(plugin.on_tool_call, new_run(), new_call("hold", {"number": 1001}))
        held.wait_started()
        order(plugin)
        assert len(server.sessions) == 2
        plugin.close()
        assert len(server.sessions) == 1
        held.go.set()
        assert call.result() == ToolResult("done")
    assert server.sessions == []
    assert "the gateway is closing" in order(plugin).output


def test_closing_beside_a_server_that_is_down(server: FakeFileMaker, section: Sections) -> None:
    """Sessions that cannot be ended end by themselves."""
    plugin = FileMaker(read(section()))
    order(plugin)
    server.stop()
    plugin.close()


class Sleepy(FakeFileMaker):
    """Does not answer when somebody logs out."""

    def reply(self, request: Received) -> Reply:
        if request.method == "DELETE":
            self.pause(30)
        return super().reply(request)


def test_closing_beside_a_server_that_hangs(section: Sections) -> None:
    """One attempt tells: the gateway has 10 seconds for everything."""
    meeting = threading.Barrier(3, timeout=10)
    with Sleepy({"find order": lambda _: str(meeting.wait())}) as server:
        settings = section()
        settings["connections"]["sales"] = server.connection()
        plugin = FileMaker(read(settings))
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(lambda _: order(plugin), range(3)))
        assert len(server.sessions) == 3
        plugin.close()
        assert [request.method for request in server.requests].count("DELETE") == 1


def test_names_are_quoted(section: Sections) -> None:
    """Whatever FileMaker allows in names and passwords arrives."""
    name = "AI: 100 % / find? #1 & größer"
    with FakeFileMaker(
        {name: lambda _: "1"}, database="Größe / 1", password="Öffne: 東京", layouts={name: []}
    ) as server:
        settings = section(script=name, layout=name)
        settings["connections"]["sales"] = server.connection()
        assert order(FileMaker(read(settings))).output == 1


def test_an_address_that_gets_too_long_is_not_sent(server: FakeFileMaker, section: Sections) -> None:
    """Web servers cut or refuse it; the model is told to be short."""
    settings = section(parameters={"properties": {"note": {}, "number": {}}}, connection={"max_url": 1000})
    plugin = FileMaker(read(settings))
    answer = order(plugin, note="é" * 200)
    assert "the arguments are too long" in answer.output
    assert "in an address of at most 1000. Call it again with other arguments" in answer.output
    assert not order(plugin, note="é" * 20).is_error
    assert max(len(request.path) for request in server.requests) < 1000


@pytest.mark.parametrize(
    "find", [{"id": "*"}, {"id": "1"}, {"id": "2"}, {"name": "*"}], ids=["any", "value", "other", "field"]
)
def test_a_search_carries_a_script_only_if_it_finds(
    server: FakeFileMaker, section: Sections, find: dict[str, str]
) -> None:
    """A search that finds nothing is the operator's mistake, not the model's."""
    answer = order(FileMaker(read(section(find=find))))
    if find in ({"id": "*"}, {"id": "1"}):
        assert answer.output["status"] == "shipped"
    else:
        assert answer.output.startswith("Error: find_order: the script was not run, the search that carries it found")


def test_lone_surrogates_are_replaced(server: FakeFileMaker, section: Sections) -> None:
    """They have no UTF-8, so no way into an address."""
    plugin = FileMaker(read(section(script="echo", parameters={"additionalProperties": True})))
    assert order(plugin, note="a\ud800b").output["arguments"]["note"] == "a?b"


def test_netrc_does_not_replace_the_token(
    server: FakeFileMaker, section: Sections, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the gateway's user has there for the host is for other programs."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert not order(FileMaker(read(section()))).is_error


class Elsewhere(FakeServer):
    """Sends everybody to another address."""

    target = ""

    def reply(self, request: Received) -> Reply:
        return 302, {"Location": self.target}, b""


def test_a_redirect_is_not_followed(server: FakeFileMaker, section: Sections) -> None:
    """It would carry the password to wherever it leads."""
    with Elsewhere() as elsewhere:
        elsewhere.target = f"{server.url}/fmi/data/vLatest/databases/Sales/sessions"
        answer = order(FileMaker(read(section(connection={"url": elsewhere.url}))))
    assert "HTTP status 302 and not as the FileMaker Data API does. Calling it again does not help" in answer.output
    assert server.requests == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A certificate for localhost that only its own authority, itself, vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(made.public_bytes(pem) + secret)
    return str(file)


def test_a_certificate_that_nobody_vouches_for_is_refused(certificate: str, section: Sections) -> None:
    """The password is not sent; with `ca_file` it is known whom to trust."""
    with FakeFileMaker({"find order": lambda _: "1"}, certificate=certificate) as server:
        settings = section()
        settings["connections"]["sales"] = server.connection()
        assert order(FileMaker(read(settings))).output == (
            "Error: find_order: the connection to the server is not secure, so it was not called. "
            "Calling it again does not help: tell the user that this is not available now."
        )
        assert server.requests == []
        settings["connections"]["sales"]["ca_file"] = certificate
        assert order(FileMaker(read(settings))).output == 1


def test_scripts_run_beside_each_other(server: FakeFileMaker, section: Sections) -> None:
    """Two calls of one step meet in their scripts: neither waits for the other to end."""
    meeting = threading.Barrier(2, timeout=10)

    def meet(parameter: str) -> str:
        meeting.wait()
        return parameter

    server.scripts["find order"] = meet
    plugin = FileMaker(read(section()))
    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(lambda number: order(plugin, number), (1001, 1002)))
    assert [answer.output["arguments"]["number"] for answer in answers] == [1001, 1002]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (101, "the record is missing (FileMaker error 101). Call it again with other arguments"),
        (301, "the record is in use by somebody else (FileMaker error 301). Try once more in a moment"),
        (504, "a value is not unique (FileMaker error 504). Call it again with other arguments"),
        (513, "a value does not fit into its field (FileMaker error 513). Call it again"),
        (215, "access is denied (FileMaker error 215). Calling it again does not help"),
        (1204, "a calculation of the script is wrong (FileMaker error 1204). Calling it again does not help"),
        (99999, "the script ended with an error (FileMaker error 99999). Tell the user what happened."),
    ],
)
def test_codes_are_explained(server: FakeFileMaker, section: Sections, code: int, text: str) -> None:
    """Each with what the model can do about it, those between the known ones too."""
    server.scripts["find order"] = lambda _: Ended(error=code)
    assert text in order(FileMaker(read(section()))).output


def test_other_tools_are_left_to_others(section: Sections) -> None:
    """It answers its own names only."""
    assert FileMaker(read(section())).on_tool_call(new_run(), new_call("weather")) is None


def test_how_tools_want_to_be_called(section: Sections) -> None:
    """The gateway waits a little longer than the tool, which can then say better what happened."""
    settings = section(idempotent=True)
    settings["tools"]["slow"] = {**settings["tools"]["find_order"], "timeout": 120, "idempotent": False}
    options = FileMaker(read(settings)).bf_tools()
    assert {name: (option.timeout, option.idempotent) for name, option in options.items()} == {
        "find_order": (25.0, True),
        "slow": (125.0, False),
    }


def test_what_is_offered(section: Sections) -> None:
    """To the apps of the connection only, and not beside a tool of this name that the caller brought."""
    plugin = FileMaker(read(section(connection={"apps": ["portal"]})))
    listed: FunctionTool = {"type": "function", "name": "find_order", "parameters": {}}
    drafts = [new_draft(app="portal"), new_draft(app="other"), new_draft(app="portal", tools=[listed])]
    for draft in drafts:
        plugin.before_run(draft)
    assert [len(draft.tools) for draft in drafts] == [1, 0, 1]
    assert drafts[2].tools == [listed]


def test_what_plugins_do_to_a_definition_stays_in_its_run(section: Sections) -> None:
    """Each run gets a copy of its own."""
    plugin = FileMaker(read(section()))
    first, second = new_draft(), new_draft()
    plugin.before_run(first)
    first.tools[0]["parameters"].clear()  # type: ignore[typeddict-item]
    plugin.before_run(second)
    assert second.tools[0]["parameters"]["required"] == ["number"]  # type: ignore[typeddict-item]
