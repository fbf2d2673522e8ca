"""Where requests go, and what the heads of all of them have in common."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A base URL, taken apart. `path` has no slash at its end, `common` are header lines, a login among them."""

    host: str
    port: int
    secure: bool
    path: str = field(repr=False)
    common: bytes = field(repr=False)

    @property
    def origin(self) -> tuple[str, int, bool]:
        """What connections are shared by."""
        return self.host, self.port, self.secure

    def head(self, method: str, path: str) -> bytes:
        """Return the head of a request for a path below the base, but for further headers and the empty line.

        Raises ValueError for a path that no request line can hold.
        """
        target = (self.path + path).encode("ascii")
        if any(byte <= 0x20 for byte in target):
            raise ValueError("a URL holds no white space")
        return b"%b %b HTTP/1.1\r\n%b" % (method.encode(), target, self.common)


def endpoint_of(url: str) -> Endpoint:
    """Return the endpoint that is below a base URL. Raises ValueError for one that cannot be called."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not an HTTP URL")
    host = parts.hostname if parts.hostname.isascii() else parts.hostname.encode("idna").decode()
    secure = parts.scheme == "https"
    named = f"[{host}]" if ":" in host else host
    common = header_lines({"Host": f"{named}:{parts.port}" if parts.port else named, "Accept-Encoding": "identity"})
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        common += header_lines({"Authorization": f"Basic {b64encode(login.encode()).decode()}"})
    return Endpoint(host, parts.port or (443 if secure else 80), secure, parts.path.rstrip("/"), common)


def header_lines(headers: Mapping[str, str]) -> bytes:
    """Return header lines. Raises ValueError for a value that would be more than one, or none."""
    lines = b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in headers.items())
    if lines.count(b"\n") != len(headers) or b"\0" in lines:
        raise ValueError("not a header")
    return lines
