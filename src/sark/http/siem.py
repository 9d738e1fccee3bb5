"""Routes of the audit sinks for operators: see them, read, replay and purge their events, try them.

What moves events does so for at most a thousand of them in one request; the commands ask again.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from sark.errors import InvalidRequestError
from sark.http.bodies import decode_body
from sark.http.service import Service, ServiceOf, require_admin
from sark.ops.sink_probe import as_documents, try_sink
from sark.ops.sinks import collect_sinks
from sark.siem import SinkQueue

__all__ = ["MAX_AT_ONCE", "Moved", "PurgeRequest", "ReplayRequest", "SinkEvents", "router"]

MAX_AT_ONCE = 1000

router = APIRouter(prefix="/v1/siem", tags=["audit"], dependencies=[Depends(require_admin)])
_encode = msgspec.json.Encoder().encode
_ADMIN: dict[str, Any] = {"security": [{"bearer": []}]}

Count = Annotated[int, Query(ge=1, le=MAX_AT_ONCE)]


class SinkEvents(msgspec.Struct, frozen=True):
    """Events of a sink.

    Attributes:
        events: As they are stored; what is no JSON is a string.
    """

    events: list[msgspec.Raw]


class ReplayRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many dead letters go back to the queue.

    Attributes:
        count: At most so many, the oldest first.
    """

    count: Annotated[int, msgspec.Meta(ge=1, le=MAX_AT_ONCE)] = MAX_AT_ONCE


class PurgeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is dropped for good.

    Attributes:
        what: Events that wait in the queue, or dead letters.
        count: At most so many, the oldest first.
    """

    what: Literal["queue", "failed"]
    count: Annotated[int, msgspec.Meta(ge=1, le=MAX_AT_ONCE)] = MAX_AT_ONCE


class Moved(msgspec.Struct, frozen=True):
    """What was done.

    Attributes:
        events: How many events were moved or dropped.
    """

    events: int


_decode_replay = msgspec.json.Decoder(ReplayRequest).decode
_decode_purge = msgspec.json.Decoder(PurgeRequest).decode


@router.get("", openapi_extra=_ADMIN)
async def sinks(service: ServiceOf) -> Response:
    """Every sink with its account: where each event that was ever accepted is now."""
    runtime = service.runtime
    return _json(
        await collect_sinks(runtime.forwarding, runtime.spill, budget=runtime.gateway.budget)
    )


@router.get("/{sink}/events", openapi_extra=_ADMIN)
async def events(
    sink: str, service: ServiceOf, count: Count = 20, newest: bool = False
) -> Response:
    """Events that wait in a sink's queue, the oldest or the newest."""
    queue = _queue(service, sink)
    entries = await (queue.newest(count) if newest else queue.peek(count))
    return _json(SinkEvents(as_documents(entries)))


@router.get("/{sink}/failed", openapi_extra=_ADMIN)
async def failed(sink: str, service: ServiceOf, count: Count = 20) -> Response:
    """A sink's dead letters, the oldest first."""
    return _json(SinkEvents(as_documents(await _queue(service, sink).failed(count))))


@router.post("/{sink}/replay", openapi_extra=_ADMIN)
async def replay(sink: str, request: Request, service: ServiceOf) -> Response:
    """Put dead letters back into the queue, as far as it has room; their ids stay."""
    queue = _queue(service, sink)
    asked = await decode_body(request, _decode_replay)
    return _json(Moved(await queue.replay(asked.count)))


@router.post("/{sink}/purge", openapi_extra=_ADMIN)
async def purge(sink: str, request: Request, service: ServiceOf) -> Response:
    """Drop events or dead letters for good."""
    queue = _queue(service, sink)
    asked = await decode_body(request, _decode_purge)
    return _json(Moved(await queue.purge(asked.what, asked.count)))


@router.post("/{sink}/test", openapi_extra=_ADMIN)
async def test(sink: str, service: ServiceOf) -> Response:
    """Send one test event to a sink, past its queue; a paused forwarder looks again if it is taken.

    The answer tells what came of it, also when the receiver did not take the event.
    """
    _queue(service, sink)
    forwarding = service.runtime.forwarding
    tried = await try_sink(forwarding.plans[sink])
    if tried.delivered and sink in forwarding.forwarders:
        forwarding.forwarders[sink].retry()
    return _json(tried)


def _queue(service: Service, sink: str) -> SinkQueue:
    queues = service.runtime.forwarding.queues
    if sink not in queues:
        known = ", ".join(queues)
        raise InvalidRequestError("sink", f"got {sink[:64]!r}, expected one of: {known}")
    return queues[sink]


def _json(document: object) -> Response:
    return Response(_encode(document), media_type="application/json")
