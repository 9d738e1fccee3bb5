"""SARK: the Valkey state layer for authorization gateways.

The library's front door::

    from sark import Request, load, open_runtime

    async with open_runtime(load()) as sark:
        answer = await sark.authorize(
            Request(user_id="user-0001", action="server:read", resource="server/web-001")
        )
"""

from sark.batch import BatchQuestion, BatchRequest
from sark.gateway import Answer, Gateway, Request
from sark.runtime import Runtime, open_runtime
from sark.settings import Settings, load

__all__ = [
    "Answer",
    "BatchQuestion",
    "BatchRequest",
    "Gateway",
    "Request",
    "Runtime",
    "Settings",
    "load",
    "open_runtime",
]

__version__ = "0.1.0"
