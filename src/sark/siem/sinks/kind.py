"""What each kind of sink tells about itself; a module with a ``SINK`` is found by the registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import SecretStr

from sark.settings import SinkAddress
from sark.siem.sinks.base import Sink
from sark.siem.sinks.options import Option

__all__ = ["FORMAT", "SinkKind", "SinkOptions", "SinkPlan"]

FORMAT = "format"
"""The option that all sinks have."""


@dataclass(frozen=True, slots=True)
class SinkOptions:
    """What all sinks of a process have in common.

    Attributes:
        timeout: Longest wait for a receiver's answer, in seconds.
        retry_cap: Most seconds of waiting that a receiver may ask for.
        gzip: Whether bodies are compressed for receivers that take that.
    """

    timeout: float = 10.0
    retry_cap: float = 60.0
    gzip: bool = True


@dataclass(frozen=True, slots=True)
class SinkPlan:
    """One sink as it was configured and found to be in order.

    Attributes:
        address: Where it sends.
        options: Options of the address, read by the kind's parsers, with defaults for the others.
        token: Its credential.
        common: What all sinks have in common.
    """

    address: SinkAddress
    options: Mapping[str, Any] = field(default_factory=dict)
    token: SecretStr | None = None
    common: SinkOptions = field(default_factory=SinkOptions)

    @property
    def format(self) -> str:
        """The format in which the sink's events are written, such as ``ocsf``."""
        return str(self.options[FORMAT])

    @property
    def is_json(self) -> bool:
        """Whether an event in that format is a JSON object rather than a line of text."""
        return self.format != "cef"


@dataclass(frozen=True, slots=True)
class SinkKind:
    """One kind of sink.

    Attributes:
        schemes: Schemes of its addresses, such as ``splunk+https``.
        formats: Formats that its receivers understand; the first is the default.
        make: Makes the sink. Raises ``ConfigurationError`` for what cannot work together, in words
            that complete ``SARK_SIEM_SINKS: the sink NAME ...``.
        options: Options that its addresses take, besides ``format``.
        needs_host: Whether its addresses name a host.
        credential: Whether one is ``needed``, may be there (``taken``), or is of no use (``none``).
    """

    schemes: tuple[str, ...]
    formats: tuple[str, ...]
    make: Callable[[SinkPlan], Sink]
    options: Mapping[str, Option] = field(default_factory=dict)
    needs_host: bool = True
    credential: Literal["needed", "taken", "none"] = "taken"
