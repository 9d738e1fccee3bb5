"""Rules that concern more than one setting.

Each returns the lines of what is wrong, so that all of it can be told at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sark.errors import SettingsError
from sark.settings._choices import Topology
from sark.settings._urls import is_loopback

if TYPE_CHECKING:
    from sark.settings._model import Settings


SUPPORTED_TOPOLOGIES: frozenset[Topology] = frozenset({"single"})
"""What this version can run. The others are recognised, and refused by ``_unsupported``."""


def conflicts(settings: Settings) -> list[str]:
    """Return one line for each contradiction between settings that are valid one by one."""
    return [
        *_roles(settings),
        *_sentinel(settings),
        *_cluster(settings),
        *_unsupported(settings),
        *_tokens(settings),
        *_grace(settings),
        *_issuers(settings),
        *_proxies(settings),
        *_opa(settings),
        *_opa_certificate(settings),
        *_ttl_order(settings),
        *_breaker(settings),
        *_sink_tokens(settings),
        *_event_size(settings),
        *_spill_size(settings),
    ]


def check_exposure(settings: Settings) -> None:
    """Refuse to answer other machines without asking callers for a credential.

    Raises:
        SettingsError: If the service would listen beyond loopback without a service token, and
            nobody has allowed that.
    """
    if settings.service_token or settings.allow_anonymous or is_loopback(settings.host):
        return
    raise SettingsError(
        f"SARK_HOST: got {settings.host!r}, which other machines can reach while callers need no "
        "credential, expected SARK_SERVICE_TOKEN to be set (callers then authenticate), or "
        "SARK_ALLOW_ANONYMOUS=true (anybody who reaches the port may ask)"
    )


def _roles(settings: Settings) -> list[str]:
    if settings.valkey_state_url is None or settings.valkey_url is not None:
        return []
    return [
        f"VALKEY_STATE_URL: got '{settings.valkey_state_url}', expected VALKEY_URL to be set too"
    ]


def _sentinel(settings: Settings) -> list[str]:
    hosts, master = settings.valkey_sentinel_hosts, settings.valkey_sentinel_master
    lines = []
    if hosts and settings.topology != "sentinel":
        lines.append(
            f"SARK_TOPOLOGY: got {settings.topology!r}, expected sentinel (or unset) because "
            "VALKEY_SENTINEL_HOSTS is set"
        )
    if hosts and not master:
        lines.append(
            "VALKEY_SENTINEL_MASTER: got nothing, expected the name under which the Sentinels know "
            "the primary because VALKEY_SENTINEL_HOSTS is set"
        )
    if master and not hosts:
        lines.append(
            f"VALKEY_SENTINEL_MASTER: got {master!r}, expected VALKEY_SENTINEL_HOSTS to be set as "
            "well"
        )
    if settings.topology == "sentinel" and not hosts:
        lines.append(
            "SARK_TOPOLOGY: got 'sentinel', expected VALKEY_SENTINEL_HOSTS to be set as well"
        )
    return lines


def _cluster(settings: Settings) -> list[str]:
    if settings.topology != "cluster" or settings.valkey_url is not None:
        return []
    return ["SARK_TOPOLOGY: got 'cluster', expected VALKEY_URL to name one of its servers"]


def _unsupported(settings: Settings) -> list[str]:
    """Refuse the topologies that this version can't run yet."""
    if settings.topology in SUPPORTED_TOPOLOGIES:
        return []
    topology = settings.topology
    implied = " (VALKEY_SENTINEL_HOSTS implies it)" if settings.valkey_sentinel_hosts else ""
    reason = f"this version does not support {topology} yet"
    return [f"SARK_TOPOLOGY: got {topology!r}{implied}, expected single because {reason}"]


def _tokens(settings: Settings) -> list[str]:
    if settings.admin_token is None or settings.admin_token != settings.service_token:
        return []
    return ["SARK_SERVICE_TOKEN: got the same value as SARK_ADMIN_TOKEN, expected a different one"]


def _grace(settings: Settings) -> list[str]:
    grace, life = settings.refresh_grace, settings.access_token_ttl
    if grace < life:
        return []
    got = f"SARK_REFRESH_GRACE: got {grace}"
    bound = f"SARK_ACCESS_TOKEN_TTL, which is {life} (seconds)"
    return [f"{got}, expected less than {bound}: an answer may be given again within the grace"]


def _issuers(settings: Settings) -> list[str]:
    variable, given = "SARK_TRUSTED_AUDIENCE", settings.trusted_audience
    if settings.trusted_issuers is None:
        missing = f"{variable}: got {given!r}, expected SARK_TRUSTED_ISSUERS to be set too"
        return [] if given is None else [missing]
    ours = settings.token_issuer
    if ours not in {trusted.issuer for trusted in settings.trusted_issuers}:
        return []
    return [f"SARK_TRUSTED_ISSUERS: got {ours!r}, expected issuers other than SARK_TOKEN_ISSUER"]


def _proxies(settings: Settings) -> list[str]:
    if settings.proxy_header == "x-forwarded-for" or (
        settings.trusted_proxies or settings.trusted_proxy_count
    ):
        return []
    got = f"SARK_PROXY_HEADER: got {settings.proxy_header!r}"
    return [f"{got}, expected SARK_TRUSTED_PROXIES or SARK_TRUSTED_PROXY_COUNT to be set too"]


def _opa(settings: Settings) -> list[str]:
    """Refuse ways to reach OPA where it isn't reached, or not in that way."""
    files = (
        ("OPA_CA_FILE", settings.opa_ca_file),
        ("OPA_CLIENT_CERT_FILE", settings.opa_client_cert_file),
        ("OPA_CLIENT_KEY_FILE", settings.opa_client_key_file),
    )
    given = [variable for variable, file in files if file is not None]
    if settings.opa_url is None:
        given += ["OPA_TOKEN"] if settings.opa_token is not None else []
        return [f"{variable}: got a value, expected OPA_URL to be set too" for variable in given]
    if settings.opa_url.startswith("https://"):
        return []
    return [
        f"{variable}: got a file, expected OPA_URL to begin with https:// (it is "
        f"'{settings.opa_url}')"
        for variable in given
    ]


def _opa_certificate(settings: Settings) -> list[str]:
    cert, key = settings.opa_client_cert_file, settings.opa_client_key_file
    if (cert is None) == (key is None):
        return []
    given, missing = "OPA_CLIENT_CERT_FILE", "OPA_CLIENT_KEY_FILE"
    if cert is None:
        given, missing = missing, given
    return [f"{missing}: got nothing, expected a path because {given} is set"]


def _ttl_order(settings: Settings) -> list[str]:
    ordered = (
        ("SARK_TTL_HIGH", settings.ttl_high, "SARK_TTL_MEDIUM", settings.ttl_medium),
        ("SARK_TTL_MEDIUM", settings.ttl_medium, "SARK_TTL_LOW", settings.ttl_low),
    )
    return [
        f"{shorter}: got {ttl}, expected at most {longer}, which is {bound} (seconds): the more "
        "sensitive, the shorter"
        for shorter, ttl, longer, bound in ordered
        if ttl > bound
    ]


def _sink_tokens(settings: Settings) -> list[str]:
    names = {sink.name for sink in settings.siem_sinks or ()}
    return [
        f"SARK_SIEM_{name.upper()}_TOKEN: got a value, expected SARK_SIEM_SINKS to name a sink "
        f"{name} (it names {', '.join(sorted(names)) or 'none'})"
        for name in settings.siem_tokens or ()
        if name not in names
    ]


def _breaker(settings: Settings) -> list[str]:
    longest, first = settings.siem_breaker_open_cap, settings.siem_breaker_open
    if longest >= first:
        return []
    expected = f"at least SARK_SIEM_BREAKER_OPEN ({first:g})"
    return [f"SARK_SIEM_BREAKER_OPEN_CAP: got {longest:g}, expected {expected}"]


def _event_size(settings: Settings) -> list[str]:
    """An event that no queue can ever take would keep all behind it in the spill store."""
    size, bound = settings.siem_event_bytes, settings.siem_max_bytes
    if size <= bound:
        return []
    got = f"SARK_SIEM_EVENT_BYTES: got {size}"
    return [f"{got}, expected at most SARK_SIEM_MAX_BYTES, which is {bound} (bytes)"]


def _spill_size(settings: Settings) -> list[str]:
    """A spill store takes an event for all sinks or not at all."""
    bound = settings.spill_max_bytes
    sinks = 1 if settings.siem_sinks is None else len(settings.siem_sinks)
    least = settings.siem_event_bytes * sinks
    if not bound or bound >= least:
        return []
    expected = f"0 or at least {least}: SARK_SIEM_EVENT_BYTES for each of {sinks} sinks (bytes)"
    return [f"SARK_SPILL_MAX_BYTES: got {bound}, expected {expected}"]
