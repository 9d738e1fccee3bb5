"""The page about audit events shows what the code writes."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from sark.siem.encoding import EventEncoder
from sark.siem.event import AuditEvent
from sark.siem.formats import FORMAT_NAMES, format_of
from sark.siem.record import AuditRecord, decode
from sark.siem.redaction import COMMON_SECRETS

PAGE = (Path(__file__).parents[2] / "docs" / "audit-events.md").read_text()
EVENT = AuditEvent(
    id="01a2186d-3fa0-7541-80f6-e1e4759c5d53",
    time=datetime(2026, 11, 26, 15, 4, 5, 678901, tzinfo=UTC),
    type="decision",
    policy="authz",
    user_id="alice",
    action="server:delete",
    resource="server/web-001",
    context={"mfa": False, "session_token": "s3cr3t"},
    allow=False,
    reason="mfa=false",
    cached="valkey",
    revision="sha256:4f1d",
    ip="203.0.113.7",
    api_key_id="key-7",
)


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_the_example_of_each_format_is_what_is_written(name: str) -> None:
    match = re.search(
        rf"^### `{name}`$.*?^```(json|text)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL
    )
    assert match is not None
    raw = EventEncoder(["common"], max_bytes=32_768)(EVENT)
    written = format_of(name).encode(decode(raw), raw)
    if match[1] == "json":
        assert msgspec.json.decode(match[2]) == msgspec.json.decode(written)
    else:
        assert match[2] == written.decode() + "\n"


@pytest.mark.parametrize("name", AuditRecord.__struct_fields__)
def test_every_field_is_described(name: str) -> None:
    assert f"`{name}`" in PAGE


def test_what_is_redacted_by_default_is_listed() -> None:
    listed = PAGE.partition("`common`, the default, stands for")[2].partition(". `common,otp`")[0]
    assert re.findall(r"`([^`]+)`", listed) == [*COMMON_SECRETS]
