"""The kinds of sinks there are, and how one is made from its address.

Every module in this package that has a ``SINK`` is a kind of sink, so adding one is adding a file.
The settings check the form of addresses only, since they must not import what stands above them;
schemes, options and credentials are checked here, by ``plan_sinks`` when the process starts.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import SecretStr

from sark.errors import ConfigurationError
from sark.settings import Settings, SinkAddress
from sark.siem import sinks
from sark.siem.sinks.base import Sink
from sark.siem.sinks.kind import FORMAT, SinkKind, SinkOptions, SinkPlan

__all__ = ["common_options", "make_sink", "plan_sink", "plan_sinks", "sink_kinds"]


@cache
def sink_kinds() -> Mapping[str, SinkKind]:
    """Return every kind of sink by each of its schemes."""
    kinds: dict[str, SinkKind] = {}
    for name in sorted(found.name for found in pkgutil.iter_modules(sinks.__path__)):
        kind = getattr(importlib.import_module(f"{sinks.__name__}.{name}"), "SINK", None)
        if isinstance(kind, SinkKind):
            for scheme in kind.schemes:
                if scheme in kinds:
                    raise TypeError(f"{name}: another sink has the scheme {scheme} already")
                kinds[scheme] = kind
    return kinds


def common_options(settings: Settings) -> SinkOptions:
    """Return what the settings say about all sinks."""
    return SinkOptions(
        timeout=settings.siem_timeout,
        retry_cap=settings.siem_retry_cap,
        gzip=settings.siem_gzip,
    )


def plan_sinks(settings: Settings) -> tuple[SinkPlan, ...]:
    """Check all sinks of the settings; opens nothing.

    Raises:
        ConfigurationError: One cannot work. The message names ``SARK_SIEM_SINKS`` and the sink.
    """
    common = common_options(settings)
    return tuple(
        plan_sink(address, settings.siem_token(address.name), common) for address in settings.sinks
    )


def plan_sink(address: SinkAddress, token: SecretStr | None, common: SinkOptions) -> SinkPlan:
    """Check one sink against what its kind takes.

    Raises:
        ConfigurationError: As above.
    """
    kind = _kind(address)
    if kind.needs_host != bool(address.host):
        expected = f"a host after {address.scheme}://" if kind.needs_host else "no host"
        raise _refusal(address, f"got {address.host or 'no host'!r}, expected {expected}")
    if kind.credential == "needed" and token is None:
        raise _refusal(address, f"expected its credential in {_variable(address)}")
    if kind.credential == "none" and token is not None:
        raise _refusal(address, f"takes no credential, and got {_variable(address)}")
    return SinkPlan(address, _options(kind, address), token, common)


def make_sink(plan: SinkPlan) -> Sink:
    """Make a sink, not yet opened.

    Raises:
        ConfigurationError: Its options contradict each other, or its credential has a form that
            its receiver does not take.
    """
    try:
        return _kind(plan.address).make(plan)
    except ConfigurationError as error:
        raise _refusal(plan.address, str(error)) from None


def _kind(address: SinkAddress) -> SinkKind:
    kinds = sink_kinds()
    if address.scheme not in kinds:
        expected = ", ".join(sorted(kinds))
        raise _refusal(address, f"got the scheme {address.scheme!r}, expected one of {expected}")
    return kinds[address.scheme]


def _options(kind: SinkKind, address: SinkAddress) -> dict[str, Any]:
    values: dict[str, Any] = {FORMAT: kind.formats[0]}
    values |= {name: option.default for name, option in kind.options.items()}
    for name, given in address.options:
        if name == FORMAT:
            if given not in kind.formats:
                expected = ", ".join(kind.formats)
                raise _refusal(address, f"got format={given!r}, expected one of {expected}")
            values[name] = given
            continue
        if name not in kind.options:
            # The value stays out of it: behind a mistyped name there may be a token.
            expected = ", ".join(sorted({FORMAT, *kind.options}))
            raise _refusal(address, f"got the option {name!r}, expected one of {expected}")
        try:
            values[name] = kind.options[name].read(given)
        except ValueError:
            expected = kind.options[name].expected
            raise _refusal(address, f"got {name}={given!r}, expected {expected}") from None
    return values


def _variable(address: SinkAddress) -> str:
    return f"SARK_SIEM_{address.name.upper()}_TOKEN"


def _refusal(address: SinkAddress, reason: str) -> ConfigurationError:
    return ConfigurationError(f"SARK_SIEM_SINKS: the sink {address.name}: {reason}")
