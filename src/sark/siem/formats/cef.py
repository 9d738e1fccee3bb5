r"""ArcSight's Common Event Format, version 0.

::

    CEF:0|vendor|product|version|event class|name|severity|key=value key=value ...

In the header backslash and pipe are escaped, in the extension backslash and equals sign; there a
line break is written ``\n``. For other control characters the format has no escape, and they end a
line or a string in one receiver or another, so each becomes U+FFFD. A tab stays.

Common Event Format: Event Interoperability Standard, ArcSight (OpenText).
"""

from __future__ import annotations

from typing import Final

import msgspec

from sark.siem.formats.meaning import Meaning, Severity, address_of, meaning_of
from sark.siem.formats.product import PRODUCT, VENDOR, VERSION
from sark.siem.record import AuditRecord

__all__ = ["Cef"]

_CONTROLS: Final = dict.fromkeys((*range(32), *range(127, 160), 8232, 8233), "�")
_IN_HEADER: Final = str.maketrans({**_CONTROLS, "\\": r"\\", "|": r"\|"})
_IN_EXTENSION: Final = str.maketrans(
    {**_CONTROLS, "\\": r"\\", "=": r"\=", "\n": r"\n", "\r": r"\r", "\t": "\t"}
)

_HEADER: Final = f"CEF:0|{VENDOR}|{PRODUCT}|{VERSION}|"

# From 0 to 10; 7 and 8 are "high" to the standard.
_SEVERITIES: Final = {
    Severity.INFORMATIONAL: 1,
    Severity.LOW: 4,
    Severity.MEDIUM: 5,
    Severity.HIGH: 8,
}
_NAMES: Final = {
    Meaning.ALLOWED: "Access allowed",
    Meaning.DENIED: "Access denied",
    Meaning.LIMITED: "Rate limit exceeded",
    Meaning.UNAUTHENTICATED: "Credential refused",
    Meaning.SESSION: "Session changed",
}
# "src" is for IPv4 alone.
_ADDRESS_KEYS: Final = {0: "shost", 4: "src", 6: "c6a2Label=Source IPv6 Address c6a2"}


class Cef:
    """The Common Event Format."""

    name = "cef"
    content_type = "text/plain; charset=utf-8"

    def encode(self, record: AuditRecord, raw: bytes) -> bytes:  # noqa: ARG002 - see Format
        """Write an event as one line."""
        meaning = meaning_of(record)
        kind = f"{record.type}:{meaning.name.lower()}".translate(_IN_HEADER)
        severity = _SEVERITIES[Severity.of(record, meaning)]
        pairs = _pairs(record, allowed=meaning in {Meaning.ALLOWED, Meaning.SESSION})
        extension = " ".join([f"{key}={_escape(value)}" for key, value in pairs if value])
        return f"{_HEADER}{kind}|{_NAMES[meaning]}|{severity}|{extension}".encode()


def _pairs(record: AuditRecord, *, allowed: bool) -> tuple[tuple[str, str], ...]:
    """Return what the extension tells; what has no value will be left out.

    Of the six keys that a product may use as it likes, each comes with its label. What finds no
    place there is named after the product, as the standard asks for.
    """
    address = address_of(record.address or "")
    return (
        ("externalId", record.id),
        ("rt", str(record.milliseconds)),
        ("cat", record.type),
        ("act", "allow" if allowed else "deny"),
        ("outcome", "success" if allowed else "failure"),
        ("reason", record.reason),
        ("suser", record.user_id),
        (_ADDRESS_KEYS[address.version], address.ip or address.text),
        ("cs1Label=action cs1", record.action),
        ("cs2Label=resource cs2", record.resource),
        ("cs3Label=policy cs3", record.policy),
        ("cs4Label=revision cs4", record.revision),
        ("cs5Label=apiKeyId cs5", record.credential or ""),
        ("cs6Label=context cs6", _text(record.context, there=record.has_context)),
        ("sarkSession", record.session_id),
        ("sarkCached", record.cached if isinstance(record.cached, str) else ""),
        ("sarkEngineDecisionId", record.engine_decision_id),
        ("sarkTruncated", _text(record.truncated, there=record.is_truncated)),
        *(_counted(record) if record.identity else ()),
    )


def _counted(record: AuditRecord) -> tuple[tuple[str, str], ...]:
    """Return what a closing event tells besides."""
    return (
        ("cnt", str(record.count)),
        ("start", str(record.started or record.milliseconds)),
        ("end", str(record.milliseconds)),
        ("sarkIdentity", record.identity),
        ("sarkFirstId", record.first_id),
    )


def _text(raw: msgspec.Raw, *, there: bool) -> str:
    return bytes(raw).decode() if there else ""


def _escape(value: str) -> str:
    # Most values need no escape, and looking for one costs a tenth of making it.
    if value.isprintable() and "\\" not in value and "=" not in value:
        return value
    return value.translate(_IN_EXTENSION)
