"""``POST /v1/authorize``.

A plain ASGI endpoint: the body is decoded and checked in one step by msgspec, and FastAPI's
per-request machinery stays out of the hottest route. Its place in the OpenAPI document is taken by
``openapi.py``.
"""

from __future__ import annotations

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from sark.gateway import Request
from sark.http.bodies import decode_body
from sark.http.callers import told_to_user
from sark.http.service import Service

__all__ = ["AUTHORIZE_PATH", "authorize"]

AUTHORIZE_PATH = "/v1/authorize"

_decode = msgspec.json.Decoder(Request).decode
_encode = msgspec.json.Encoder().encode


async def authorize(request: HttpRequest) -> Response:
    """Decide one request; 200 with the answer, allow or deny."""
    service: Service = request.app.state.service
    access_token = await service.check_caller(request)
    question = await decode_body(request, _decode)
    if access_token is not None:
        question = service.as_user(request, question, access_token)
    answer = await service.runtime.authorize(question)
    if access_token is not None:
        answer = told_to_user(answer)
    response = Response(_encode(answer), media_type="application/json")
    response.raw_headers += service.limit_fields.admitted(answer.limits)
    return response
