"""An HTTP proxy in front of a server, that fails as networks and servers do: by plan."""

import contextlib
import http.client
import socket
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, Self
from urllib.parse import urlsplit

# The server is busy; the connection is reset before the request arrives, or after; an answer is cut.
Fault = Literal["503", "reset", "answer lost", "truncated"]
FAULTS: tuple[Fault, ...] = ("503", "reset", "answer lost", "truncated")
Fails = Callable[[int, str, str], bool]  # by the number of the request (from 1), method and path
_HOP = ("transfer-encoding", "connection")
_BUSY = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"


def never(number: int, method: str, path: str) -> bool:
    """The plan of a healthy network."""
    return False


class FaultyProxy:
    """Use as a context; ``fails`` and ``fault`` may be changed at any time."""

    def __init__(self, target: str) -> None:
        self.host = urlsplit(target).netloc
        self.fault: Fault = "503"
        self.fails: Fails = never
        self.requests = self.failed = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def plan(self, fault: Fault, fails: Fails) -> None:
        """Count from 1 again and fail by this plan."""
        with self._lock:
            self.fault, self.fails, self.requests, self.failed = fault, fails, 0, 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _next(self, method: str, path: str) -> Fault | None:
        with self._lock:
            self.requests += 1
            failed = self.fails(self.requests, method, path)
            self.failed += failed
            return self.fault if failed else None

    def _handler(self) -> type["_Handler"]:
        return type("Handler", (_Handler,), {"proxy": self})


class _Handler(BaseHTTPRequestHandler):
    """Passes one request on, or fails."""

    protocol_version = "HTTP/1.1"
    proxy: FaultyProxy

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length) if length else b""
        fault = self.proxy._next(self.command, self.path)
        if fault == "503":
            self.send(503, [("Content-Length", str(len(_BUSY)))], _BUSY)
        elif fault == "reset":
            self.reset()
        else:
            upstream = http.client.HTTPConnection(self.proxy.host)
            upstream.request(self.command, self.path, body, dict(self.headers.items()))
            given = upstream.getresponse()
            content, headers = given.read(), given.getheaders()
            upstream.close()
            if fault == "answer lost" or (fault == "truncated" and not content):
                self.reset()
            else:
                self.send(given.status, headers, content, cut=fault == "truncated")

    def send(
        self, status: int, headers: list[tuple[str, str]], content: bytes, *, cut: bool = False
    ) -> None:
        self.send_response_only(status)
        kept = [(name, value) for name, value in headers if name.lower() not in _HOP]
        if not any(name.lower() == "content-length" for name, _ in kept):
            kept.append(("Content-Length", str(len(content))))
        for name, value in kept:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.reset()

    def reset(self) -> None:
        self.wfile.flush()
        at_once = struct.pack("ii", 1, 0)  # closed by a reset
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        self.connection.close()
        self.close_connection = True

    def finish(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # it is closed already
            super().finish()

    def log_message(self, *arguments: object) -> None: ...

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer
