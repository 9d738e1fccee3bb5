"""Letting a running service warm its cache, portion by portion."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from sark.cli.service_client import ServiceClient
from sark.errors import ConfigurationError, SarkError
from sark.http.warming import MAX_QUESTIONS, WARM_PATH, WarmProgress
from sark.policy.warming import Unusable, WarmReport

__all__ = ["count_lines", "warm_through"]

# Of one request's body; a service takes a MiB unless its SARK_MAX_BATCH_BODY_BYTES is lower.
PORTION_BYTES = 2**19
# Counts that a service tells, and a report adds up.
COUNTS = ("asked", "cached", "evaluated", "stored", "failed", "skipped", "seconds")

Tell = Callable[[Unusable], None]
OnProgress = Callable[[WarmReport, int], None]

_decode = msgspec.json.Decoder(WarmProgress).decode


@dataclass(slots=True)
class _Portion:
    """What travels in one request.

    Attributes:
        lines: Requests, as they stand in the file.
        places: Where.
        unusable: What stands between them and is no JSON.
    """

    lines: list[msgspec.Raw] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    unusable: list[Unusable] = field(default_factory=list)


async def warm_through(
    client: ServiceClient,
    file: Path | None,
    *,
    rate: int | None,
    limit: int | None,
    tell: Tell,
    on: OnProgress,
) -> None:
    """Let a service warm; a cancelled call ends that too.

    Args:
        client: The service, asked as its administrator.
        file: Requests, one a line; None for the service's log of the most asked.
        rate: Evaluations per second; the service's own when None.
        limit: Most questions to take.
        tell: Given what can't be asked.
        on: Given the report so far, and how many questions the service has to deal with.

    Raises:
        SarkError: The service did not answer, or refused.
    """
    done = WarmReport()
    portions = [None] if file is None else _portions(file, limit)
    for portion in portions:
        lines = None if portion is None else portion.lines
        asked = {"questions": lines, "rate": rate, "limit": limit if portion is None else None}
        body = msgspec.json.encode({k: v for k, v in asked.items() if v is not None})
        final = None
        async with aclosing(client.lines(WARM_PATH, body)) as answers:
            async for line in answers:
                final = _decode(line)
                on(_sum(done, final, portion), final.total)
        if final is None or not final.ended:
            raise SarkError(f"{client.address}: the service ended before it was done")
        done = _sum(done, final, portion)
        for item in sorted(_unusable(final, portion), key=_line_number):
            tell(item)
        if done.reason:
            return


def _sum(done: WarmReport, now: WarmProgress, portion: _Portion | None) -> WarmReport:
    added = {name: getattr(done, name) + getattr(now, name) for name in COUNTS}
    here = len(portion.unusable) if portion is not None else 0
    added["asked"] += here
    added["skipped"] += here
    return WarmReport(**added, reason=now.reason)


def _unusable(final: WarmProgress, portion: _Portion | None) -> list[Unusable]:
    if portion is None:
        return final.unusable
    found = [Unusable(portion.places[int(item.place)], item.reason) for item in final.unusable]
    return found + portion.unusable


def _line_number(item: Unusable) -> int:
    number = item.place.rpartition(":")[2]
    return int(number) if number.isdecimal() else 0


def _portions(file: Path, limit: int | None) -> Iterator[_Portion]:
    portion, size, left = _Portion(), 0, limit
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            if left is not None:
                if not left:
                    break
                left -= 1
            place = f"{file}:{number}"
            try:
                raw = msgspec.json.decode(line, type=msgspec.Raw)
            except (msgspec.DecodeError, RecursionError) as error:
                portion.unusable.append(Unusable(place, str(error)))
                continue
            if len(line) > PORTION_BYTES:
                portion.unusable.append(Unusable(place, f"has more than {PORTION_BYTES} bytes"))
                continue
            if len(portion.lines) == MAX_QUESTIONS or size + len(line) > PORTION_BYTES:
                yield portion
                portion, size = _Portion(), 0
            portion.lines.append(raw)
            portion.places.append(place)
            size += len(line)
    yield portion


def count_lines(file: Path) -> int:
    """Count the lines that hold something.

    Raises:
        ConfigurationError: The file can't be read.
    """
    try:
        with file.open("rb") as lines:
            return sum(1 for line in lines if line.strip())
    except OSError as error:
        raise ConfigurationError(f"--from: {file}: {error.strerror}") from None
