"""HTTP: requests in, answers out, cut connections; what the requests mean is in ``routes``."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

from .faults import Fault
from .hub import Hub, Request, Token
from .repo import Content, read, size_of


@dataclass
class Answer:
    """What is sent back: JSON (``data``) or a file's content."""

    status: int = 200
    data: object = None
    headers: dict[str, str] = field(default_factory=dict)
    content: Content | None = None


class Refused(Exception):
    """The request ends here with an error."""

    def __init__(self, status: int, message: str, code: str | None = None, **more: object) -> None:
        super().__init__(message)
        headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        self.answer = Answer(status, {"error": message, **more}, headers)


class Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    hub: Hub
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def setup(self) -> None:
        """Small answers leave at once."""
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_GET(self) -> None:
        """Any request."""
        self._serve()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_GET

    @property
    def query(self) -> dict[str, list[str]]:
        """The query's values."""
        return parse_qs(urlsplit(self.path).query)

    def json(self) -> dict:
        """The body as JSON."""
        return json.loads(self.body or b"{}")

    def _serve(self) -> None:
        from .routes import dispatch

        self.plain_path = urlsplit(self.path).path
        line = f"{self.command} {self.plain_path}"
        with self.hub.lock:
            fault = next((each for each in self.hub.faults if each.strikes(line)), None)
        if fault is not None and fault.cut == "upload":
            self._read_body(only_half=True)
            return self._hang_up()
        self.body = self._read_body()
        if fault is not None and fault.before is not None:
            fault.before(self.hub)
        try:
            answer = self._faulty(fault) if fault is not None and fault.status is not None else dispatch(self)
        except Refused as refused:
            answer = refused.answer
        if fault is not None and fault.cut == "answer":
            return self._hang_up()
        self._send(answer, half=fault is not None and fault.cut == "download")

    def _faulty(self, fault: Fault) -> Answer:
        status, headers, message = fault.answer(self.headers.get("Authorization"))
        if fault.text is not None:
            return Answer(status, headers={"Content-Type": "text/plain", **headers}, content=fault.text.encode())
        return Answer(status, {"error": message}, headers)

    def token(self) -> Token | None:
        """Who asks; nobody without a token.

        Raises:
            Refused: The token is unknown or has expired.
        """
        text = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not text:
            return None
        token = self.hub.tokens.get(text)
        if token is None or token.expired:
            raise Refused(401, "Invalid credentials in Authorization header")
        return token

    def _read_body(self, only_half: bool = False) -> bytes:
        length = self.headers.get("Content-Length")
        if length is not None:
            return self.rfile.read(int(length) // 2 if only_half else int(length))
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return b""
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
            if only_half:
                return b""
        self.rfile.readline()
        return b"".join(pieces)

    def _hang_up(self) -> None:
        self._note(0)
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _note(self, status: int) -> None:
        with self.hub.lock:
            self.hub.requests.append(Request(self.command, self.plain_path, status))

    def _send(self, answer: Answer, half: bool) -> None:
        content = answer.content
        status, headers = answer.status, {"Content-Type": "application/json", **answer.headers}
        if content is None:
            content = json.dumps({} if answer.data is None else answer.data).encode()
        start, end = 0, size_of(content)
        if answer.content is not None and status == 200:
            headers["Accept-Ranges"] = "bytes"
            asked = self.headers.get("Range", "")
            if asked.startswith("bytes="):
                first, _, last = asked.removeprefix("bytes=").partition("-")
                start, end = (
                    (int(first), min(end, int(last) + 1 if last else end)) if first else (end - int(last), end)
                )
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{size_of(content)}"
                status = 206
        self._note(0 if half else status)
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        if half:
            end = start + (end - start) // 2
        if self.command != "HEAD":
            for place in range(start, end, 1 << 22):
                self.wfile.write(read(content, place, min(end, place + (1 << 22))))
        self.wfile.flush()
        if half:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
