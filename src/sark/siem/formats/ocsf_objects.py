"""The objects of OCSF 1.5.0 that an event of ours has, with the attributes that it uses.

Names are the schema's: https://schema.ocsf.io/1.5.0/classes/api_activity?profiles=security_control.
An attribute that is ``UNSET`` is left out.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from sark.siem.formats.product import PRODUCT, VENDOR, VERSION

__all__ = [
    "Actor",
    "Api",
    "ApiActivity",
    "Endpoint",
    "Metadata",
    "Policy",
    "Resource",
    "Service",
    "Session",
    "Unmapped",
    "User",
]


class Product(msgspec.Struct, frozen=True):
    """What wrote the event."""

    name: str = PRODUCT
    vendor_name: str = VENDOR
    version: str = VERSION


# Written once: it is the same in every event.
_PRODUCT = msgspec.Raw(msgspec.json.encode(Product()))


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """About the event itself."""

    uid: str
    version: str = "1.5.0"
    profiles: tuple[str, ...] = ("security_control",)
    product: msgspec.Raw = _PRODUCT
    event_code: str
    correlation_uid: str | UnsetType = UNSET
    log_version: str


class User(msgspec.Struct, frozen=True, kw_only=True):
    """Who asked."""

    uid: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    credential_uid: str | UnsetType = UNSET


class Session(msgspec.Struct, frozen=True):
    """The session that the event is about."""

    uid: str


class Actor(msgspec.Struct, frozen=True):
    """Who asked, and in which session."""

    user: User
    session: Session | UnsetType = UNSET


class Service(msgspec.Struct, frozen=True):
    """What the operation belongs to."""

    name: str


class Api(msgspec.Struct, frozen=True):
    """What was asked for."""

    operation: str
    service: Service | UnsetType = UNSET


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """From where."""

    ip: str | UnsetType = UNSET
    name: str | UnsetType = UNSET


class Resource(msgspec.Struct, frozen=True):
    """On what."""

    uid: str
    type: str | UnsetType = UNSET


class Policy(msgspec.Struct, frozen=True):
    """The policy that was asked, and its revision."""

    name: str
    version: str | UnsetType = UNSET


class Unmapped(msgspec.Struct, frozen=True, kw_only=True):
    """What the schema has no attribute for; names are those of our own format."""

    type: str
    context: msgspec.Raw | UnsetType = UNSET
    cached: bool | str
    identity: str | UnsetType = UNSET
    first_id: str | UnsetType = UNSET
    truncated: msgspec.Raw | UnsetType = UNSET


class ApiActivity(msgspec.Struct, frozen=True, kw_only=True):
    """An event of class 6003 with the security-control profile."""

    metadata: Metadata
    time: int
    class_uid: int = 6003
    class_name: str = "API Activity"
    category_uid: int = 6
    category_name: str = "Application Activity"
    activity_id: int
    activity_name: str
    type_uid: int
    type_name: str
    severity_id: int
    severity: str
    status_id: int
    status: str
    status_detail: str | UnsetType = UNSET
    action_id: int
    action: str
    disposition_id: int
    disposition: str
    actor: Actor
    api: Api
    resources: tuple[Resource, ...] | UnsetType = UNSET
    src_endpoint: Endpoint
    policy: Policy | UnsetType = UNSET
    count: int | UnsetType = UNSET
    start_time: int | UnsetType = UNSET
    end_time: int | UnsetType = UNSET
    unmapped: Unmapped
