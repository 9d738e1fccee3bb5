"""OCSF's published schema, as the judge of what is written."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import msgspec
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

from sark.siem.formats import format_of
from sark.siem.record import decode

__all__ = ["SCHEMA", "captions", "ocsf"]

_PUBLISHED = get_ocsf_schema(version="1.5.0")
SCHEMA = jsonschema_rs.validator_for(
    OcsfJsonSchemaEmbedded(_PUBLISHED).get_class_schema(
        "api_activity", profiles=["security_control"]
    )
)


def ocsf(raw: bytes) -> dict[str, Any]:
    """Write a queued event in OCSF, and check it against the schema."""
    fields: dict[str, Any] = msgspec.json.decode(format_of("ocsf").encode(decode(raw), raw))
    errors = [f"{error.instance_path}: {error.message}" for error in SCHEMA.iter_errors(fields)]
    assert errors == []
    return fields


def captions(attribute: str) -> dict[int, str]:
    """Return the values that the schema lists for an attribute, with their captions."""
    attributes = _PUBLISHED["classes"]["api_activity"]["attributes"]
    return {int(key): value["caption"] for key, value in attributes[attribute]["enum"].items()}
