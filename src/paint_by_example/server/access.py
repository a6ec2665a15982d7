"""Who may ask, and how much at once: checked before a request is looked at any further.

A page of another site can make a browser send requests here, to 127.0.0.1 too. So requests say whose page they come
from (Origin, Sec-Fetch-Site) and whom they take this server for (Host: a name of theirs may lead here), and none from
elsewhere is answered.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
COOKIE = "pbe_token"
READ_SECONDS = 30.0  # between two pieces of a request's body
OTHER_BODY = 1 << 16  # bytes of a request that uploads nothing
UPLOADS = ("/api/edits", "/api/structure", "/api/record", "/api/library/search")

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "font-src 'self'",
        "connect-src 'self' blob: data:",
        "worker-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

OPENER = {"cross-origin-opener-policy": "same-origin"}
"""Only with https or on this machine: elsewhere browsers ignore it, and complain."""


class Refused(Exception):
    """A request that is not answered further."""

    def __init__(self, status: int, reason: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.reason, self.headers = status, reason, headers or {}


class Access:
    """Stands before the application.

    Args:
        app: what answers.
        token: that a request must show; None for none, on this machine only.
        hosts: names this server goes by, without a token.
        upload_bytes: of a request, at most.
        full: None, or after how many seconds to come again: asked before an edit's upload is read.
        refused: told why a request was not answered.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str | None,
        hosts: tuple[str, ...],
        upload_bytes: int,
        full: Callable[[], int | None],
        refused: Callable[[str], None],
    ) -> None:
        self.app, self.token, self.hosts = app, token, hosts
        self.upload_bytes, self.full, self.refused = upload_bytes, full, refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse to."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                return await send({"type": "websocket.close", "code": 1008})
            return await self.app(scope, receive, send)
        begun, limited = False, _Limited(receive)

        async def guarded(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                if limited.refusal is not None:  # the application made something else of it
                    raise limited.refusal
                begun = True
                own = {**HEADERS, **(OPENER if _is_trustworthy(scope) else {}), "cache-control": "no-store"}
                present = {name.lower() for name, _ in message["headers"]}
                extra = [(n.encode(), v.encode()) for n, v in own.items() if n.encode() not in present]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        try:
            limited.limit = self.upload_bytes if scope["path"] in UPLOADS else OTHER_BODY
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            self._check_origin(scope, headers)
            if await self._enter(scope, headers, guarded):
                return
            self._check_length(headers, limited.limit)
            if scope["method"] == "POST" and scope["path"] == "/api/edits" and (wait := self.full()) is not None:
                await _drain(receive)
                raise Refused(503, "full", "the queue is full; try again later", {"retry-after": str(wait)})
            await self.app(scope, limited, guarded)
        except Refused as refusal:
            self.refused(refusal.reason)
            limited.refusal = None  # it is said now
            if not begun:
                await _answer(guarded, refusal.status, str(refusal), refusal.headers)

    def _check_origin(self, scope: Scope, headers: dict[str, str]) -> None:
        host = headers.get("host", "")
        if self.token is None and _name(host) not in self.hosts:
            raise Refused(400, "host", f"this server does not go by the name of {host!r}; use 127.0.0.1")
        origin = headers.get("origin")
        if origin is not None and _place(origin) != host:
            raise Refused(403, "origin", "a page of another site may not ask here")
        site = headers.get("sec-fetch-site", "same-origin")
        if site not in ("same-origin", "none") and scope["path"] != "/":
            raise Refused(403, "origin", "a page of another site may not ask here")

    async def _enter(self, scope: Scope, headers: dict[str, str], send: Send) -> bool:
        """Check the token; True if the request has been answered."""
        if self.token is None or scope["path"] == "/health":
            return False
        query = parse_qs(scope["query_string"].decode("latin-1"))
        if scope["path"] == "/" and scope["method"] == "GET" and _same(query.get("token", [""])[0], self.token):
            cookie = f"{COOKIE}={self.token}; HttpOnly; SameSite=Strict; Path=/"
            await _answer(send, 303, "", {"location": "/", "set-cookie": cookie})
            return True
        kind, _, shown = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and _same(shown.strip(), self.token):
            return False
        if _same(_cookie(headers.get("cookie", "")), self.token):
            return False
        raise Refused(
            401,
            "token",
            "the token is missing or wrong: open the address that the server printed, or send Authorization: Bearer",
            {"www-authenticate": "Bearer"},
        )

    @staticmethod
    def _check_length(headers: dict[str, str], limit: int) -> None:
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > limit:
            raise _too_large(limit)


class _Limited:
    """What is left to read of a body, that ends in a refusal where it grows too large or does not come."""

    def __init__(self, receive: Receive) -> None:
        self.receive, self.limit, self.read, self.complete = receive, 0, 0, False
        self.refusal: Refused | None = None

    async def __call__(self) -> Message:
        if self.complete:
            return await self.receive()  # waits for the client to go
        try:
            message = await asyncio.wait_for(self.receive(), READ_SECONDS)
        except TimeoutError:
            self.refusal = Refused(408, "slow", "the request did not come in time")
            raise self.refusal from None
        self.read += len(message.get("body", b""))
        if self.read > self.limit:
            self.refusal = _too_large(self.limit)
            raise self.refusal
        self.complete = not message.get("more_body", False)
        return message


def _too_large(limit: int) -> Refused:
    message = f"the request is larger than {limit:,} bytes; make the pictures smaller"
    return Refused(413, "large", message, {"connection": "close"})


async def _drain(receive: Receive) -> None:
    """Read a body away, so that the client is done sending and listens."""
    while True:
        try:
            message = await asyncio.wait_for(receive(), READ_SECONDS)
        except TimeoutError:
            return
        if message["type"] != "http.request" or not message.get("more_body", False):
            return


async def _answer(send: Send, status: int, message: str, headers: dict[str, str]) -> None:
    body = json.dumps({"error": message}).encode() if message else b""
    shown = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    pairs = [(name.encode(), value.encode()) for name, value in shown.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def _is_trustworthy(scope: Scope) -> bool:
    """Whether browsers take what was asked for as coming from where it says (W3C, Secure Contexts, 3.1)."""
    hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    return scope["scheme"] == "https" or (bool(hosts) and _name(hosts[0]) in LOOPBACK)


def _place(origin: str) -> str | None:
    """Host and port of an Origin header; None where it is no address."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _name(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _same(shown: str, token: str) -> bool:
    return hmac.compare_digest(shown.encode(), token.encode())


def _cookie(text: str) -> str:
    try:
        morsel = SimpleCookie(text).get(COOKIE)
    except CookieError:
        return ""
    return "" if morsel is None else morsel.value
