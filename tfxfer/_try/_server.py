"""The server of the page: it uses only the standard library, and answers only this machine by default.

A page from another site in the same browser must not be able to ask. A request is answered only if its `Host` is one of
this server's names (a foreign name that resolves to this machine is rejected), if its `Origin`, if present, is this
server's own, and if its content type is JSON, which a foreign form cannot send. There are no CORS headers.
"""

import http.server
import ipaddress
import json
import socket
import sys
import threading
import webbrowser
from collections.abc import Sequence
from typing import Any

from tfxfer import _check
from tfxfer._try import _page

# The longest request that is read, in bytes, and the timeout for receiving it, in seconds.
MOST_BYTES, PATIENCE = 1 << 20, 10
_LOCAL = ("localhost", "127.0.0.1", "::1")
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": _page.POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def check_host(host: str, allowed: Sequence[str]) -> None:
    """Raises if others can reach an address, unless that was requested.

    Args:
        host: string. The address to listen at.
        allowed: names by which others address this machine.
    """
    if not is_loopback(host) and not allowed:
        remedy = "If others may ask the model, pass the name of this machine with `--allow-remote NAME`."
        raise _check.invalid("host", "an address that only this machine reaches, e.g. 127.0.0.1", host, remedy)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Server(http.server.ThreadingHTTPServer):
    """Answers requests of the page.

    Args:
        asked: the result of `_answers.load`: `form`, a dict for the page, and `answer(texts)`, a dict for a list of one
            or two texts.
        host: string. The address to listen at.
        port: int. 0 for a free port.
        allowed: names that a request may be addressed to, in addition to those of this machine.
    """

    daemon_threads = True

    def __init__(self, asked: Any, host: str = "127.0.0.1", port: int = 0, allowed: Sequence[str] = ()) -> None:
        check_host(host, allowed)
        self.address_family = socket.AF_INET6 if ":" in host else self.address_family
        super().__init__((host, port), Handler)
        self.asked, self.lock = asked, threading.Lock()
        names = {*_LOCAL, *map(str.lower, allowed)}
        self.hosts = {f"[{name}]" if ":" in name else name for name in names}
        self.page = _page.page(asked.form).encode()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores a browser that disconnected; reports other errors as usual."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        """The URL of the page."""
        host, port = self.server_address[:2]
        host = str(host)
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/"

    def is_mine(self, host: str | None) -> bool:
        """Whether a name with a port is one of this server's."""
        if host is None:
            return False
        name, _, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
        if not name:
            name, port = host, ""
        return name.lower() in self.hosts and port in ("", str(self.server_address[1]))


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the page, and answers the texts that it sends."""

    server: Server
    timeout = PATIENCE
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "tfxfer", ""

    def do_GET(self) -> None:
        """Gives the page."""
        if self._is_refused():
            return
        if self.path != "/":
            self._send(404, b"There is one page: /", "text/plain")
            return
        self._send(200, self.server.page, "text/html; charset=utf-8")

    def do_POST(self) -> None:
        """Answers the texts of a request."""
        if self._is_refused():
            return
        try:
            status, found = 200, self._answer()
        except _Refused as refused:
            self.close_connection = True  # the unread rest would be taken for the next request
            status, found = refused.status, {"error": str(refused)}
        except Exception as error:  # a model may fail on a text; the page shows the error
            status, found = 500, {"error": str(error) or type(error).__name__}
        self._send(status, json.dumps(found, ensure_ascii=True).encode(), "application/json")

    def _answer(self):
        if self.path != "/answer":
            raise _Refused(404, "There is no such path.")
        if self.headers.get_content_type() != "application/json":
            raise _Refused(415, "Texts must be sent as application/json.")
        try:
            size = int(self.headers.get("Content-Length", ""))
        except ValueError:
            raise _Refused(411, "The length of the content is missing.") from None
        if not 0 <= size <= MOST_BYTES:
            raise _Refused(413, f"At most {MOST_BYTES} bytes are read.")
        try:
            texts = json.loads(self.rfile.read(size))["texts"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise _Refused(400, 'Expected {"texts": ["..."]}.') from None
        count = len(self.server.asked.form["texts"])
        is_fitting = isinstance(texts, list) and len(texts) <= count and all(isinstance(text, str) for text in texts)
        if not is_fitting or not texts:
            raise _Refused(400, f"Expected one to {count} texts.")
        with self.server.lock:
            return self.server.asked.answer(texts)

    def _is_refused(self):
        host, origin = self.headers.get_all("Host") or [], self.headers.get("Origin")
        is_ours = len(host) == 1 and self.server.is_mine(host[0])
        if is_ours and origin is not None:
            is_ours = origin.startswith("http://") and self.server.is_mine(origin.removeprefix("http://"))
        if not is_ours:
            self.close_connection = True
            self._send(403, b"This server answers only its own page.", "text/plain")
        return not is_ours

    def _send(self, status, content, kind):
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing: texts are private, and so are the times of requests."""


class _Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


def serve(asked: Any, host: str, port: int, *, allowed: Sequence[str] = (), opens_browser: bool = True) -> None:
    """Serves until interrupted."""
    with Server(asked, host, port, allowed) as server:
        sys.stderr.write(f"{asked.form['title']}: {server.url} (Ctrl+C to quit)\n")
        if opens_browser:
            threading.Thread(target=webbrowser.open, args=(server.url,), daemon=True).start()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            sys.stderr.write("\n")
