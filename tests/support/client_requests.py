"""The requests of real clients, as `tests/recorded/clients` has them: byte for byte, with marks for what differs."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent.parent / "recorded" / "clients"
OTHER_ORIGIN: Final = "https://dashboards.example.com"
"""The origin of a page that is not the gateway's own."""


@dataclass(frozen=True)
class ClientRequest:
    """One request of a client. Its head has the marks {host}, {token}, {query}, {etag} and {other}."""

    client: str
    kind: str
    """The method; browsers also have `navigation`, `preflight of …`, `… again` (with ETag), `… from another origin`."""
    head: str
    body: bytes
    kept: bool
    """The client uses the connection for its next request."""
    split: bool
    """The body arrives in a segment of its own."""
    recorded: bool
    """From the client itself; otherwise from what is publicly known of it."""

    @property
    def name(self) -> str:
        return f"{self.client}: {self.kind}"

    @property
    def method(self) -> str:
        return self.head.partition(" ")[0]

    @property
    def target(self) -> str:
        return self.head.split(" ", 2)[1]

    @property
    def fields(self) -> list[tuple[str, str]]:
        """The header fields in their order."""
        lines = self.head.split("\n")[1:]
        return [(name, value) for name, _, value in (line.partition(": ") for line in lines)]

    def segments(self, *, host: str, token: str, query: int, etag: str = "", body: bytes | None = None) -> list[bytes]:
        """Return what the client sends, cut as it arrives; with another `body`, Content-Length changes with it."""
        head, sent = self.head, self.body if body is None else body
        marks = {"host": host, "token": token, "query": str(query), "etag": etag, "other": OTHER_ORIGIN}
        for name, value in marks.items():
            head = head.replace(f"{{{name}}}", value)
        if sent:
            head = re.sub(r"(?im)^(content-length: )\d+$", rf"\g<1>{len(sent)}", head)
        whole = head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n"
        return [whole, sent] if self.split and sent else [whole + sent]


def client_requests() -> list[ClientRequest]:
    """Return every request of every client, by file name and in the order of the file."""
    return [request for path in sorted(FOLDER.glob("*.toml")) for request in _read(path)]


def _read(path: Path) -> list[ClientRequest]:
    file = tomllib.loads(path.read_text(encoding="utf-8"))
    return [
        ClientRequest(
            client=file["client"],
            kind=one["kind"],
            head=one["head"].rstrip("\n"),
            body=one.get("body", "").encode(),
            kept=one["kept"],
            split={"together": False, "head, body": True}[one["segments"]],
            recorded="recorded" in file,
        )
        for one in file["requests"]
    ]
