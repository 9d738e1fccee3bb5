"""The HTTP service: routes, middleware, problem documents."""

from sark.http.app import create_app

__all__ = ["create_app"]
