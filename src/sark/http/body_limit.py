"""Middleware that refuses bodies over a limit, without reading more of them."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sark.http.problems import HttpError, Problem, problem_response

__all__ = ["BodyLimit"]


class BodyLimit:
    """Answers 413 to a body of more than ``max_bytes``.

    A declared length is refused before anything is read; an undeclared one while it arrives.

    Args:
        app: The application.
        max_bytes: Most bytes of a body.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, counting its body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > self._max_bytes:
            await problem_response(self._problem())(scope, receive, send)
            return
        read = 0

        async def limited_receive() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._max_bytes:
                raise HttpError(self._problem())
            return message

        await self._app(scope, limited_receive, send)

    def _problem(self) -> Problem:
        detail = f"expected at most {self._max_bytes} bytes"
        return Problem("urn:sark:problem:body-too-large", "Body too large", 413, detail)
