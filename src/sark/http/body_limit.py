"""Middleware that refuses bodies over a limit, without reading more of them."""

from __future__ import annotations

from collections.abc import Mapping

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
        exceptions: Most bytes of a body by path, where that differs.
    """

    def __init__(
        self, app: ASGIApp, *, max_bytes: int, exceptions: Mapping[str, int] | None = None
    ) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._exceptions = dict(exceptions or {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, counting its body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._exceptions.get(scope["path"], self._max_bytes)
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > most:
            await problem_response(_too_large(most))(scope, receive, send)
            return
        read = 0

        async def limited_receive() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > most:
                raise HttpError(_too_large(most))
            return message

        await self._app(scope, limited_receive, send)


def _too_large(most: int) -> Problem:
    detail = f"expected at most {most} bytes"
    return Problem("urn:sark:problem:body-too-large", "Body too large", 413, detail)
