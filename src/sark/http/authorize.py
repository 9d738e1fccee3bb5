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
from sark.http.problems import HttpError, Problem, invalid_body, malformed_body
from sark.http.service import Service

__all__ = ["authorize"]

_decode = msgspec.json.Decoder(Request).decode
_encode = msgspec.json.Encoder().encode


async def authorize(request: HttpRequest) -> Response:
    """Decide one request; 200 with the answer, allow or deny."""
    service: Service = request.app.state.service
    await service.check_caller(request)
    question = decode_body(await request.body(), request.headers.get("content-type"))
    answer = await service.runtime.authorize(question)
    return Response(_encode(answer), media_type="application/json")


def decode_body(body: bytes, content_type: str | None) -> Request:
    """Read a request.

    Raises:
        HttpError: 415 for another media type (so that a foreign web page cannot post without the
            browser asking first), 400 for malformed JSON, 422 for a wrong field.
    """
    media_type = (content_type or "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        detail = f"got {media_type or 'no content type'}, expected application/json"
        raise HttpError(
            Problem("urn:sark:problem:unsupported-media", "Unsupported media type", 415, detail)
        )
    try:
        return _decode(body)
    except msgspec.MsgspecError as error:
        raise invalid_body(error) from None
    except RecursionError:
        raise malformed_body("it is nested too deeply") from None
    except UnicodeDecodeError:
        raise malformed_body("it is not UTF-8") from None
