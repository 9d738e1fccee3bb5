"""Reading JSON bodies: decoded and checked in one step, every failure named."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec
from starlette.requests import Request

from sark.http.problems import HttpError, Problem, invalid_body, malformed_body

__all__ = ["decode_body"]

T = TypeVar("T")


async def decode_body(request: Request, decode: Callable[[bytes], T]) -> T:
    """Read a request's body.

    Args:
        request: The request.
        decode: A typed msgspec decoder.

    Raises:
        HttpError: 415 for another media type (so that a foreign web page cannot post without the
            browser asking first), 400 for malformed JSON, 422 for a wrong field.
    """
    body = await request.body()
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        detail = f"got {media_type or 'no content type'}, expected application/json"
        raise HttpError(
            Problem("urn:sark:problem:unsupported-media", "Unsupported media type", 415, detail)
        )
    try:
        return decode(body)
    except msgspec.MsgspecError as error:
        raise invalid_body(error) from None
    except RecursionError:
        raise malformed_body("it is nested too deeply") from None
    except UnicodeDecodeError:
        raise malformed_body("it is not UTF-8") from None
