"""A short way to the hottest route.

FastAPI's stack (its router, exit stacks, instrumentation) costs more per request than deciding it.
One path and method is answered before all that, by the same endpoint, with the same limit on bodies
and the same problem documents; everything else goes on to the application.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import FastAPI
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import request_response
from starlette.types import ASGIApp, Receive, Scope, Send

from sark.http.body_limit import BodyLimit

__all__ = ["Shortcut"]


class Shortcut:
    """Answers ``POST path`` itself and passes on the rest.

    Args:
        app: The application; its error handlers serve here too.
        path: The path.
        endpoint: What answers it.
        max_bytes: Most bytes of a body.
    """

    def __init__(
        self,
        app: FastAPI,
        path: str,
        endpoint: Callable[[Request], Awaitable[Response]],
        *,
        max_bytes: int,
    ) -> None:
        handlers = dict(app.exception_handlers)
        on_bug = handlers.pop(Exception, None)
        limited = BodyLimit(request_response(endpoint), max_bytes=max_bytes)
        handled = ExceptionMiddleware(limited, handlers=handlers)
        self._endpoint: ASGIApp = ServerErrorMiddleware(handled, handler=on_bug)
        self._app = app
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on."""
        if scope["type"] == "http" and scope["path"] == self._path and scope["method"] == "POST":
            scope["app"] = self._app
            await self._endpoint(scope, receive, send)
        else:
            await self._app(scope, receive, send)
