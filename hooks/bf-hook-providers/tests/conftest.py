"""The fixtures of these tests. `wire` says exactly what a test writes; `aimock` is a server made by others."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from bf_plugin import Toolbox
from bf_plugin.testing import Deployment
from providers_support.aimock import AIMOCK, AiMock
from providers_support.bench import Bench, Dribble
from providers_support.dialect import Dialect
from providers_support.dialects import DIALECTS
from providers_support.published import Published
from providers_support.wire import Wire


@pytest.fixture(scope="session")
def wire_server() -> Iterator[Wire]:
    server = Wire()
    yield server
    server.stop()


@pytest.fixture
def wire(wire_server: Wire, published: Published) -> Iterator[Wire]:
    """A server that says what it is told to. What it was asked must be what the provider's published schema allows."""
    wire_server.reset()
    yield wire_server
    for request in wire_server.requests:
        assert published.problems(request.path, request.body) == []
    assert wire_server.reset() == 0, "an answer was not asked for"


@pytest.fixture(params=sorted(DIALECTS))
def dialect(request: pytest.FixtureRequest) -> Dialect:
    """Each provider's protocol in turn."""
    return DIALECTS[request.param]


@pytest.fixture(scope="session")
def dialects() -> Mapping[str, Dialect]:
    """All of them, by name."""
    return DIALECTS


tools = Toolbox("almanac")


@tools.tool(idempotent=True)
def weather(place: str) -> str:
    """Tell the weather."""
    if place == "Nowhere":
        raise ValueError("there is no such place")
    return f"fine in {place}"


@pytest.fixture(scope="session")
def deployed(wire_server: Wire, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One gateway for all tests that need no settings of their own, its engines pointed to the wire."""
    sections = {name: dialect.section(wire_server.url) for name, dialect in DIALECTS.items()}
    folder = tmp_path_factory.mktemp("deployed")
    with Deployment(folder=folder, sections=sections, plugins=[tools]) as deployed:
        yield deployed


@pytest.fixture
def almanac() -> Toolbox:
    """A tool, `weather`."""
    return tools


@pytest.fixture
def begin(deploy: Any, wire: Wire, dialect: Dialect) -> Any:
    """Return a function that deploys with the dialect's engine pointed to the wire, given settings of that engine."""

    def begin(section: Mapping[str, Any] | None = None, **options: Any) -> Deployment:
        sections = {dialect.name: dialect.section(wire.url, **(section or {}))}
        return deploy(sections=sections, plugins=[tools], **options)  # type: ignore[no-any-return]

    return begin


@pytest.fixture(scope="session")
def bench_of_all() -> Iterator[Bench]:
    loop = asyncio.new_event_loop()
    dribble = Dribble()
    server = loop.run_until_complete(dribble.listen())
    bench = Bench(loop, dribble)
    yield bench
    bench.close()
    server.close()
    loop.run_until_complete(server.wait_closed())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@pytest.fixture
def bench(bench_of_all: Bench) -> Bench:
    """Engines by themselves."""
    return bench_of_all


@pytest.fixture(scope="session")
def published() -> Published:
    """The providers' own schemas."""
    return Published()


@pytest.fixture(scope="session")
def aimock_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AiMock]:
    folder = tmp_path_factory.mktemp("aimock")
    # The machine's own npm knows its registry. Packages of the group `test` put another one beside Python, for machines
    # without. npm is a script that looks for Node.js on the path.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])
    npm, node = shutil.which("npm", path=path), shutil.which("node", path=path)
    if npm is None or node is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("aimock needs Node.js 20.15 and npm")
    command = [npm, "pack", "--silent", AIMOCK]
    subprocess.run(
        command, cwd=folder, env=os.environ | {"PATH": path}, check=True, timeout=100, stdout=subprocess.DEVNULL
    )
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as package:
        package.extractall(folder, filter="data")
    nothing = folder / "nothing.json"
    nothing.write_text('{"fixtures": [{"match": {"userMessage": "never said"}, "response": {"content": "never"}}]}')
    cli = folder / "package" / "dist" / "cli.js"
    options = ["--port", "0", "--strict", "--log-level", "info", "--fixtures", str(nothing)]
    process = subprocess.Popen([node, str(cli), *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    lines = iter(process.stdout)
    said = []
    while not said or (found := re.search(r"http://127\.0\.0\.1:\d+", said[-1])) is None:
        line = next(lines, None)
        assert line is not None, f"aimock ended: {''.join(said)}"
        said.append(line)
    drain = threading.Thread(target=lambda: deque(lines, maxlen=0), daemon=True)
    drain.start()
    yield AiMock(found[0])
    process.terminate()
    process.wait(10)
    drain.join(10)
    process.stdout.close()


@pytest.fixture
def aimock(aimock_server: AiMock) -> AiMock:
    """The independent server, with nothing to say yet."""
    aimock_server.reset()
    return aimock_server
