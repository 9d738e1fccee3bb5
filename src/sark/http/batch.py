"""``POST /v1/authorize/batch``: up to a thousand questions about one user at once."""

from __future__ import annotations

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from sark.batch import BatchRequest, authorize_many
from sark.gateway import Answer
from sark.http.bodies import decode_body
from sark.http.callers import told_to_user
from sark.http.service import Service

__all__ = ["BATCH_PATH", "BatchAnswer", "authorize_batch"]

BATCH_PATH = "/v1/authorize/batch"

_decode = msgspec.json.Decoder(BatchRequest).decode
_encode = msgspec.json.Encoder().encode


class BatchAnswer(msgspec.Struct, frozen=True):
    """The answers to a batch.

    Attributes:
        answers: One per question, in their order.
    """

    answers: list[Answer]


async def authorize_batch(request: HttpRequest) -> Response:
    """Decide all questions; 200 with one answer each."""
    service: Service = request.app.state.service
    access_token = await service.check_caller(request)
    batch = await decode_body(request, _decode)
    if access_token is not None:
        batch = service.as_user(request, batch, access_token)
    answers = await authorize_many(service.runtime.gateway, batch)
    if access_token is not None:
        answers = [*map(told_to_user, answers)]
    response = Response(_encode(BatchAnswer(answers)), media_type="application/json")
    # Charged once, so each answer tells the same.
    response.raw_headers += service.limit_fields.admitted(answers[0].limits)
    return response
