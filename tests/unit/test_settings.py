from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError
from rich.console import Console
from typer.testing import CliRunner
from valkey.asyncio.connection import parse_url

from sark.cli.settings import settings as settings_command
from sark.cli.settings import table
from sark.errors import SettingsError
from sark.settings import (
    HostPort,
    ServerUrl,
    Settings,
    TrustedIssuer,
    _load,
    _rules,
    check_exposure,
    describe,
    load,
    mask_url,
    render_markdown,
)
from sark.settings._environment import variable_of
from sark.settings._model import kind_of

DOCUMENT = Path(__file__).parents[2] / "docs" / "settings.md"
SENTINEL = "s3ntinel-Pa55word-value"
FIELDS = {variable_of(field): name for name, field in Settings.model_fields.items()}
NUMERIC = {
    variable: kind_of(Settings.model_fields[name])
    for variable, name in FIELDS.items()
    if kind_of(Settings.model_fields[name]).type in ("whole number", "number")
}
HOSTS = {"VALKEY_SENTINEL_HOSTS": "a:26379", "VALKEY_SENTINEL_MASTER": "primary"}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in list(os.environ):
        if variable.startswith(("SARK_", "VALKEY_", "OPA_")):
            monkeypatch.delenv(variable)


@pytest.fixture
def every_topology(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the rules say once a version supports more than one server."""
    monkeypatch.setattr(_rules, "SUPPORTED_TOPOLOGIES", {"single", "sentinel", "cluster"})


def value_of(variable: str, text: str) -> Any:
    return getattr(load({variable: text}), FIELDS[variable])


def refusal(environ: Mapping[str, str]) -> str:
    with pytest.raises(SettingsError) as caught:
        load(environ)
    return str(caught.value)


def outcome(environ: Mapping[str, str]) -> Settings | str:
    """The settings, or the message of their refusal; any other error fails the test."""
    try:
        return load(environ)
    except SettingsError as error:
        return str(error)


# Defaults and sources


def test_defaults() -> None:
    assert {FIELDS[variable]: getattr(load({}), FIELDS[variable]) for variable in FIELDS} == {
        "valkey_url": None,
        "valkey_state_url": None,
        "valkey_password": None,
        "valkey_pool_size": 20,
        "valkey_socket_timeout": 5.0,
        "valkey_socket_connect_timeout": 2.0,
        "valkey_health_check_interval": 30.0,
        "valkey_sentinel_hosts": None,
        "valkey_sentinel_master": None,
        "topology": "single",
        "host": "127.0.0.1",
        "port": 8000,
        "trusted_proxies": None,
        "trusted_proxy_count": None,
        "proxy_header": "x-forwarded-for",
        "ratelimit_headers": "always",
        "legacy_ratelimit_headers": "off",
        "admin_token": None,
        "service_token": None,
        "allow_anonymous": False,
        "policies": ("authz",),
        "policy_dir": None,
        "policy_watch_interval": 1.0,
        "opa_url": None,
        "opa_token": None,
        "opa_ca_file": None,
        "opa_client_cert_file": None,
        "opa_client_key_file": None,
        "opa_pool_size": 50,
        "opa_watch_interval": 5.0,
        "policy_file": None,
        "data_dir": Path(".sark"),
        "request_budget_ms": 250,
        "evaluator_timeout_ms": 1000,
        "evaluator_queue_ms": 5000,
        "limit_per_minute": 1000,
        "limits_file": None,
        "limits_without_valkey": "local",
        "expected_processes": 1,
        "limit_ipv6_prefix": 64,
        "ttl_high": 300,
        "ttl_medium": 900,
        "ttl_low": 3600,
        "ttl_jitter": 0.1,
        "cache_key": "full",
        "key_dir": None,
        "key_watch_interval": 1.0,
        "token_issuer": "sark",
        "token_audience": "sark",
        "token_algorithm": "EdDSA",
        "token_leeway": 30,
        "token_cache_entries": 10_000,
        "trusted_issuers": None,
        "trusted_audience": None,
        "trusted_types": ("at+jwt",),
        "trusted_user_prefix": "{issuer}|",
        "trusted_tier_claim": None,
        "trusted_refresh": 300,
        "trusted_stale": 3600,
        "near_cache_entries": 10_000,
        "near_cache_bytes": 16 * 2**20,
        "near_cache_bound_ms": 250,
        "hot_sample": 16,
        "hot_requests": 1000,
        "warm_on_start": True,
        "warm_rate": 200,
        "warm_ready_ms": 0,
        "user_context": True,
        "max_body_bytes": 65_536,
        "max_batch_body_bytes": 2**20,
        "siem_max_events": 100_000,
        "siem_max_bytes": 268_435_456,
        "siem_overflow": "refuse",
        "siem_event_bytes": 32_768,
        "siem_redact": ("common",),
        "spill_dir": None,
        "spill_max_bytes": 2**30,
        "spill_sync": "full",
        "siem_forward": True,
        "siem_batch_events": 1000,
        "siem_batch_bytes": 2**20,
        "siem_batch_age_ms": 500,
        "siem_concurrency": 1,
        "siem_timeout": 10.0,
        "siem_retry_cap": 60.0,
        "siem_lease": 30,
        "siem_lease_expiries": 5,
        "siem_gzip": True,
        "siem_breaker_failures": 5,
        "siem_breaker_rate": 0.5,
        "siem_breaker_minimum": 20,
        "siem_breaker_window": 60.0,
        "siem_breaker_open": 1.0,
        "siem_breaker_open_cap": 60.0,
        "siem_breaker_probes": 1,
        "siem_sinks": None,
        "siem_tokens": None,
        "wait_replicas": None,
        "session_ttl": 604_800,
        "session_idle": 86_400,
        "session_cap": 10,
        "session_cap_policy": "end_oldest",
        "session_bind": "none",
        "session_adopt": False,
        "access_token_ttl": 900,
        "refresh_grace": 10,
        "log_level": "info",
        "log_format": "auto",
    }


def test_variables_of_others_are_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SARK_PORT=1\n")
    monkeypatch.chdir(tmp_path)
    for variable in ("HOST", "host", "port", "PORT", "POLICIES", "sark_port", "VALKEY_PASSWROD"):
        monkeypatch.setenv(variable, "17")
    assert Settings() == load() == load({})


def test_environment_is_read_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SARK_PORT", "81")
    assert Settings().port == load().port == 81


def test_a_given_mapping_replaces_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SARK_PORT", "81")
    monkeypatch.setenv("SARK_TPYO", "x")
    assert load({"SARK_LOG_LEVEL": "debug"}).port == 8000
    refusal({"SARK_PORT": "no"})
    assert Settings().port == 81, "the mapping must be forgotten after an error, too"


@pytest.mark.parametrize("variable", FIELDS)
def test_empty_means_unset(variable: str) -> None:
    assert load({variable: ""}) == load({})


def test_arguments_take_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SARK_PORT", "81")
    assert Settings(port=0, policies=("a", "b")).port == 0
    assert Settings(valkey_url=ServerUrl("valkey://h")).valkey_url == ServerUrl("valkey://h")


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("port", 65_536, "SARK_PORT: got 65536, expected a whole number from 0 to 65535"),
        ("port", True, "SARK_PORT: got True"),
        ("port", 1.0, "SARK_PORT: got 1.0"),
        ("port", None, "SARK_PORT: got None"),
        ("valkey_socket_timeout", float("nan"), "VALKEY_SOCKET_TIMEOUT: got nan"),
        ("valkey_socket_timeout", True, "VALKEY_SOCKET_TIMEOUT: got True"),
        ("valkey_url", 5, "VALKEY_URL: got ***"),
        ("opa_url", 5, "OPA_URL: got ***"),
        ("valkey_url", ServerUrl("http://:pw@h"), "VALKEY_URL: got ***"),
        ("valkey_sentinel_hosts", [("a", 1)], "VALKEY_SENTINEL_HOSTS: got [('a', 1)]"),
        ("policies", 3, "SARK_POLICIES: got 3"),
        ("policies", (), "SARK_POLICIES: got ()"),
        ("allow_anonymous", 1, "SARK_ALLOW_ANONYMOUS: got 1"),
        ("data_dir", 1, "SARK_DATA_DIR: got 1"),
        ("host", b"h", "SARK_HOST: got b'h'"),
        ("admin_token", SecretStr("short"), "SARK_ADMIN_TOKEN: got a value that is not shown"),
        ("admin_tokn", SENTINEL, "admin_tokn: no such setting"),
    ],
)
def test_arguments_are_validated(name: str, value: object, line: str) -> None:
    arguments: dict[str, Any] = {name: value}
    with pytest.raises(SettingsError) as caught:
        Settings(**arguments)
    assert str(caught.value).startswith(line)
    assert SENTINEL not in str(caught.value)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load({}).port = 1


# One variable at a time


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("VALKEY_POOL_SIZE", "1", 1),
        ("VALKEY_POOL_SIZE", "10000", 10_000),
        ("VALKEY_POOL_SIZE", " 5 ", 5),
        ("VALKEY_POOL_SIZE", "+5", 5),
        ("VALKEY_SOCKET_TIMEOUT", "0.001", 0.001),
        ("VALKEY_SOCKET_TIMEOUT", "300", 300.0),
        ("VALKEY_SOCKET_TIMEOUT", "1e2", 100.0),
        ("VALKEY_SOCKET_CONNECT_TIMEOUT", " .5 ", 0.5),
        ("VALKEY_HEALTH_CHECK_INTERVAL", "0", 0.0),
        ("VALKEY_HEALTH_CHECK_INTERVAL", "1e3", 1000.0),
        ("SARK_PORT", "0", 0),
        ("SARK_PORT", "65535", 65_535),
        ("SARK_LIMIT_PER_MINUTE", "0", 0),
        ("SARK_LIMIT_PER_MINUTE", "1000000000", 10**9),
        ("SARK_MAX_BODY_BYTES", "16777216", 16 * 2**20),
        ("SARK_WAIT_REPLICAS", "16", 16),
        ("SARK_HOST", "localhost", "localhost"),
        ("SARK_HOST", "::1", "::1"),
        ("SARK_HOST", "sark-1.example.com", "sark-1.example.com"),
        ("SARK_ALLOW_ANONYMOUS", "TRUE", True),
        ("SARK_ALLOW_ANONYMOUS", "on", True),
        ("SARK_ALLOW_ANONYMOUS", "0", False),
        ("SARK_POLICIES", "authz, tools_2", ("authz", "tools_2")),
        ("SARK_POLICIES", "a" * 64, ("a" * 64,)),
        ("SARK_POLICY_DIR", "/a b/c", Path("/a b/c")),
        ("SARK_DATA_DIR", "x", Path("x")),
        ("SARK_POLICY_FILE", "/a b/c.toml", Path("/a b/c.toml")),
        ("SARK_TTL_JITTER", "0", 0.0),
        ("SARK_TTL_JITTER", "0.5", 0.5),
        ("SARK_CACHE_KEY", "Compact", "compact"),
        ("SARK_LOG_LEVEL", "WARNING", "warning"),
        ("SARK_LOG_FORMAT", "json", "json"),
        ("SARK_TOPOLOGY", "Single", "single"),
        ("SARK_ADMIN_TOKEN", "0123456789abcde~", SecretStr("0123456789abcde~")),
        ("VALKEY_PASSWORD", " p w\n", SecretStr(" p w\n")),
        ("SARK_POLICY_WATCH_INTERVAL", "0", 0.0),
        ("SARK_POLICY_WATCH_INTERVAL", "3600", 3600.0),
        ("SARK_OPA_POOL_SIZE", "10000", 10_000),
        ("SARK_OPA_WATCH_INTERVAL", "0.1", 0.1),
        ("SARK_OPA_WATCH_INTERVAL", "3600", 3600.0),
        ("SARK_SIEM_REDACT", "common, payment.*, otp", ("common", "payment.*", "otp")),
        ("SARK_SIEM_REDACT", "None", ()),
    ],
)
def test_accepted(variable: str, text: str, expected: object) -> None:
    assert value_of(variable, text) == expected


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        *((variable, text) for variable in NUMERIC for text in ("x", "5s", "nan", "inf", "-1")),
        *((variable, text) for variable in NUMERIC for text in ("1_0", "٣", "1e999", "9" * 5000)),
        *((variable, "1.0") for variable, kind in NUMERIC.items() if kind.type != "number"),
        ("VALKEY_POOL_SIZE", "0"),
        ("VALKEY_POOL_SIZE", "10001"),
        ("VALKEY_SOCKET_TIMEOUT", "0"),
        ("VALKEY_SOCKET_TIMEOUT", "300.01"),
        ("VALKEY_SOCKET_CONNECT_TIMEOUT", "0"),
        ("VALKEY_HEALTH_CHECK_INTERVAL", "-0.1"),
        ("SARK_PORT", "65536"),
        ("SARK_PORT", "tcp://10.0.0.1:8000"),
        ("SARK_REQUEST_BUDGET_MS", "0"),
        ("SARK_REQUEST_BUDGET_MS", "60001"),
        ("SARK_EVALUATOR_TIMEOUT_MS", "0"),
        ("SARK_LIMIT_PER_MINUTE", "1000000001"),
        ("SARK_TTL_HIGH", "0"),
        ("SARK_TTL_LOW", "86401"),
        ("SARK_MAX_BODY_BYTES", "1023"),
        ("SARK_MAX_BODY_BYTES", "16777217"),
        ("SARK_SIEM_MAX_EVENTS", "0"),
        ("SARK_SIEM_MAX_BYTES", "0"),
        *(("SARK_SIEM_REDACT", text) for text in (",", "a,", "a b", "a..b", ".a", "a,none", "?")),
        ("SARK_WAIT_REPLICAS", "17"),
        *(("SARK_HOST", text) for text in ("[::1]", "a b", "127.0.0", "-x", "http://h", "h:1")),
        *(("SARK_ALLOW_ANONYMOUS", text) for text in ("maybe", "2", "y")),
        *(("SARK_POLICIES", text) for text in ("a,a", "a,", ",", "A", "1a", "a b", "a" * 65)),
        ("SARK_DATA_DIR", "a\0b"),
        ("SARK_POLICY_FILE", "a\0b"),
        ("SARK_TTL_JITTER", "0.51"),
        ("SARK_CACHE_KEY", "short"),
        ("SARK_LOG_LEVEL", "verbose"),
        ("SARK_LOG_FORMAT", "xml"),
        ("SARK_TOPOLOGY", "ring"),
        *(("VALKEY_SENTINEL_MASTER", text) for text in ("a b", "a\nb")),
        *(("SARK_ADMIN_TOKEN", text) for text in ("short", "a" * 15, "a" * 16 + " ", "é" * 16)),
        *(("SARK_SERVICE_TOKEN", text) for text in ("a" * 15, "a" * 16 + "\n")),
        ("VALKEY_PASSWORD", "\udcff"),
        ("SARK_POLICY_WATCH_INTERVAL", "3601"),
        ("SARK_OPA_POOL_SIZE", "0"),
        ("SARK_OPA_WATCH_INTERVAL", "0"),
        ("SARK_OPA_WATCH_INTERVAL", "3601"),
        *(("OPA_TOKEN", text) for text in ("a b", "a\n", "é")),
        ("OPA_CA_FILE", "a\0b"),
    ],
)
def test_refused(variable: str, text: str) -> None:
    lines = refusal({variable: text}).split("\n")
    kind = kind_of(Settings.model_fields[FIELDS[variable]])
    assert len(lines) == 1
    assert lines[0].startswith(f"{variable}: got ")
    assert lines[0].endswith(f", expected {kind.expected}")
    assert lines[0].isprintable()
    assert len(lines[0]) < 300


@pytest.mark.parametrize(
    ("variable", "text", "line"),
    [
        (
            "VALKEY_POOL_SIZE",
            "twenty",
            "VALKEY_POOL_SIZE: got 'twenty', expected a whole number from 1 to 10000 (connections)",
        ),
        (
            "VALKEY_SOCKET_TIMEOUT",
            "5s",
            "VALKEY_SOCKET_TIMEOUT: got '5s', expected a number above 0 and up to 300 (seconds)",
        ),
        (
            "SARK_LOG_LEVEL",
            "loud\n",
            r"SARK_LOG_LEVEL: got 'loud\n', expected one of debug, info, warning, error",
        ),
        (
            "SARK_ADMIN_TOKEN",
            "short",
            (
                "SARK_ADMIN_TOKEN: got a value that is not shown because it is a secret, "
                "expected at least 16 printable ASCII characters without spaces"
            ),
        ),
    ],
)
def test_lines(variable: str, text: str, line: str) -> None:
    assert refusal({variable: text}) == line


def test_all_errors_are_told_at_once_and_sorted() -> None:
    message = refusal(
        {"SARK_PORT": "x", "VALKEY_POOL_SIZE": "y", "SARK_ABC": "z", "SARK_HOST": "/"}
    )
    named = [line.partition(":")[0] for line in message.split("\n")]
    assert named == ["SARK_ABC", "SARK_HOST", "SARK_PORT", "VALKEY_POOL_SIZE"]


text_for_numbers = (
    st.text(st.characters(codec=None, exclude_categories=()))
    | st.from_regex(r"\s*[+-]?[0-9_]{0,12}(\.[0-9]{0,4})?([eE][+-]?[0-9]{1,3})?\s?\Z")
    | st.integers().map(str)
    | st.floats().map(str)
)


@given(variable=st.sampled_from(sorted(NUMERIC)), text=text_for_numbers)
def test_numbers_are_in_range_or_named_in_an_error(variable: str, text: str) -> None:
    settings = outcome({variable: text})
    if isinstance(settings, str):
        # Times to live have an order, whose line may name the neighbour first.
        assert variable in settings
        assert settings.replace("\n", "").isprintable()
        return
    value = getattr(settings, FIELDS[variable])
    if text:
        kind = NUMERIC[variable]
        assert kind.parse(value) == value, "a loaded value is within the bounds"
        assert value == (int(text) if kind.type == "whole number" else float(text))


@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), st.text(max_size=40), max_size=6))
def test_nothing_but_settings_errors(environ: dict[str, str]) -> None:
    settings = outcome(environ)
    if isinstance(settings, str):
        assert all(line.isprintable() for line in settings.split("\n"))


# Addresses


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("valkey://host", "valkey://host"),
        ("valkey://:pw@host:6379/0", "valkey://:***@host:6379/0"),
        ("valkeys://sark:p%40w@host:6379", "valkeys://sark:***@host:6379"),
        ("redis://name@host/2", "redis://***@host/2"),
        ("redis://u:a:b@host/", "redis://u:***@host/"),
        ("rediss://[::1]:6380/0?ssl_cert_reqs=none", "rediss://[::1]:6380/0?ssl_cert_reqs=***"),
        ("unix:///run/valkey.sock?db=3&password=pw", "unix:///run/valkey.sock?db=3&password=***"),
        ("unix://u:pw@/run/valkey.sock", "unix://u:***@/run/valkey.sock"),
    ],
)
@pytest.mark.parametrize("variable", ["VALKEY_URL", "VALKEY_STATE_URL"])
def test_urls(variable: str, url: str, shown: str) -> None:
    settings = load({"VALKEY_URL": "valkey://cache", variable: url})
    given_url = getattr(settings, FIELDS[variable])
    assert given_url.get_secret_value() == url
    assert str(given_url) == shown == mask_url(url)
    assert repr(given_url) == f"ServerUrl('{shown}')"
    assert parse_url(url), "the driver understands what we accept"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("localhost:6379", "localhost:6379"),
        ("http://host:6379", "http://host:6379"),
        ("VALKEY://host", "***"),
        (" valkey://host", "***"),
        ("valkey://host ", "valkey://***"),
        ("valkey://host\n", "valkey://***"),
        ("valkey://", "valkey://"),
        ("valkey:///0", "valkey:///0"),
        ("valkey://host:0", "valkey://host:0"),
        ("valkey://host:65536", "valkey://host:65536"),
        ("valkey://host/name", "valkey://host/name"),
        ("valkey://host?socket_timeout=0", "valkey://host?***"),
        ("valkey://host?db=first", "valkey://host?db=***"),
        ("valkey://host?password", "valkey://host?password***"),
        ("unix://", "unix://"),
        ("unix:///", "unix:///"),
        ("unix://run/valkey.sock", "unix://run/valkey.sock"),
        ("unix:///a\0b", "unix://***"),
    ],
)
def test_refused_urls(url: str, shown: str) -> None:
    assert refusal({"VALKEY_URL": url}).startswith(f"VALKEY_URL: got '{shown}', expected a URL")


@pytest.mark.parametrize(
    "url",
    [
        "valkey://:{}@host",
        "http://user:{}@host",
        "valkey://:a/{}@host",
        "valkey://:{}#b@host",
        "valkey://:1?{}@host",
        "valkey://:a@{}@host",
        "valkey://{}@host",
        "valkey://:{}",
        "valkey:/:{}@host",
        ":{}@host:6379",
        "{}",
        "x{}://host",
        "unix:///s?password={}",
        "unix:///s?{}",
        "unix:///s?db={}",
        "valkey://:{}@host/0?password=b@c",
        "valkey://:b@host/0?password={}@c",
        "valkey://host/0?password=b@{}",
        "valkey://host/0#{}",
    ],
)
def test_no_form_of_address_gives_the_password_away(url: str) -> None:
    url = url.format(SENTINEL)
    assert SENTINEL not in mask_url(url)
    assert SENTINEL not in str(outcome({"VALKEY_URL": url}))


@given(st.text(), st.text(), st.text())
def test_masking_hides_any_password_before_the_host(user: str, rest: str, scheme: str) -> None:
    for url in (f"valkey://{user}:{SENTINEL}@{rest}", f"{scheme}://{user}:{SENTINEL}{rest}@host"):
        assert SENTINEL not in mask_url(url)


def test_state_url_needs_a_url() -> None:
    line = refusal({"VALKEY_STATE_URL": f"valkey://:{SENTINEL}@state"})
    assert line == (
        "VALKEY_STATE_URL: got 'valkey://:***@state', expected VALKEY_URL to be set too"
    )


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8181",
        "http://opa",
        "https://opa.example/base/path/",
        "http://[::1]:8181/",
        "unix:///run/opa/opa.sock",
    ],
)
def test_opa_urls(url: str) -> None:
    assert value_of("OPA_URL", url) == url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("opa:8181", "opa:8181"),
        ("grpc://opa", "grpc://opa"),
        ("valkey://opa", "valkey://opa"),
        ("http://", "http://"),
        ("http:///v1", "http:///v1"),
        ("http://opa:0", "http://opa:0"),
        ("http://opa:65536", "http://opa:65536"),
        ("http://opa?", "http://opa"),
        ("http://opa?token=x", "http://opa?***"),
        ("http://opa/#top", "http://***"),
        ("http://opa ", "http://***"),
        ("unix://run/opa.sock", "unix://run/opa.sock"),
        ("unix:///", "unix:///"),
        ("unix:///opa.sock?x=1", "unix:///opa.sock?***"),
        ("http://user@opa", "http://***@opa"),
        (f"https://user:{SENTINEL}@opa:8181/", "https://user:***@opa:8181/"),
        (f"https://:{SENTINEL}@opa", "https://:***@opa"),
    ],
)
def test_refused_opa_urls(url: str, shown: str) -> None:
    line = refusal({"OPA_URL": url})
    assert line.startswith(f"OPA_URL: got '{shown}', expected a URL such as http://127.0.0.1:8181")
    assert "OPA_TOKEN holds the credential" in line


# Topology


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        ("a:26379", (HostPort("a", 26_379),)),
        ("a:1, b.c:2", (HostPort("a", 1), HostPort("b.c", 2))),
        ("[::1]:26379,10.0.0.1:65535", (HostPort("::1", 26_379), HostPort("10.0.0.1", 65_535))),
    ],
)
@pytest.mark.usefixtures("every_topology")
def test_sentinel_hosts(hosts: str, expected: tuple[HostPort, ...]) -> None:
    settings = load({"VALKEY_SENTINEL_HOSTS": hosts, "VALKEY_SENTINEL_MASTER": "primary"})
    assert settings.valkey_sentinel_hosts == expected
    assert settings.topology == "sentinel"
    again = Settings(valkey_sentinel_hosts=expected, valkey_sentinel_master="primary")
    assert again == settings
    rows = {row.variable: row for row in describe(again, {})}
    assert rows["VALKEY_SENTINEL_HOSTS"].current == hosts.replace(" ", "")
    assert rows["VALKEY_SENTINEL_HOSTS"].source == "argument"
    assert rows["SARK_TOPOLOGY"].source == "implied"


@pytest.mark.parametrize(
    "hosts", ["a", "a:", ":1", "a:0", "a:65536", "a:x", "::1:26379", "[a]:1", "a:1,", "a b:1"]
)
@pytest.mark.usefixtures("every_topology")
def test_refused_sentinel_hosts(hosts: str) -> None:
    line = refusal({"VALKEY_SENTINEL_HOSTS": hosts, "VALKEY_SENTINEL_MASTER": "primary"})
    assert line.startswith(f"VALKEY_SENTINEL_HOSTS: got '{hosts}', expected comma separated")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sark2=http://127.0.0.1:9/k", (("sark2", "http://127.0.0.1:9/k"),)),
        ("i=http://[::1]:9/k", (("i", "http://[::1]:9/k"),)),
        ("i=http://localhost/k", (("i", "http://localhost/k"),)),
        (
            "https://a.example/r?x=1=https://a.example/keys?p=q, b=https://b.example",
            (
                ("https://a.example/r?x=1", "https://a.example/keys?p=q"),
                ("b", "https://b.example"),
            ),
        ),
    ],
)
def test_trusted_issuers(text: str, expected: tuple[tuple[str, str], ...]) -> None:
    settings = load({"SARK_TRUSTED_ISSUERS": text})
    assert settings.trusted_issuers == tuple(TrustedIssuer(*pair) for pair in expected)
    rows = {row.variable: row for row in describe(settings)}
    shown = rows["SARK_TRUSTED_ISSUERS"].current
    assert shown is not None
    assert load({"SARK_TRUSTED_ISSUERS": shown}) == settings


@pytest.mark.parametrize(
    "text",
    [
        "i",
        "i=",
        "=https://h/k",
        "i=ftp://h/k",
        "i=file:///etc/passwd",
        "i=http://h/k",
        "i=http://127.0.0.1.example/k",
        "i=http://localhost.example/k",
        "i=https:///k",
        "i=https://h:0/k",
        "i=https://h:99999/k",
        "i=https://h/k#f",
        "i=https://h/ k",
        "i=https://h/k,i=https://g/k",
        "i=https://h/k,",
        "i" * 257 + "=https://h/k",
        f"i=https://user:{SENTINEL}@h/k",
        f"i=https://{SENTINEL}@h/k",
    ],
)
def test_refused_trusted_issuers(text: str) -> None:
    line = refusal({"SARK_TRUSTED_ISSUERS": text})
    assert line.startswith("SARK_TRUSTED_ISSUERS: got ")
    assert "expected comma separated issuer=jwks_url pairs" in line
    assert SENTINEL not in line
    assert "\n" not in line


@pytest.mark.parametrize("text", ["EdDSA", "eddsa", " EDDSA ", "rs256", "RS256"])
def test_the_algorithm_in_any_case(text: str) -> None:
    found = load({"SARK_TOKEN_ALGORITHM": text}).token_algorithm
    assert found == ("EdDSA" if "d" in text.lower() else "RS256")


@pytest.mark.parametrize("text", ["HS256", "none", "ES256", "EdDSA,RS256"])
def test_other_algorithms_are_refused(text: str) -> None:
    assert "expected one of EdDSA, RS256" in refusal({"SARK_TOKEN_ALGORITHM": text})


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        (
            {"SARK_TRUSTED_AUDIENCE": "a"},
            "SARK_TRUSTED_AUDIENCE: got 'a', expected SARK_TRUSTED_ISSUERS to be set too",
        ),
        (
            {"SARK_TRUSTED_ISSUERS": "me=https://h/k", "SARK_TOKEN_ISSUER": "me"},
            "SARK_TRUSTED_ISSUERS: got 'me', expected issuers other than SARK_TOKEN_ISSUER",
        ),
    ],
)
def test_contradictions_about_issuers(environ: dict[str, str], line: str) -> None:
    assert refusal(environ) == line


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        (
            {**HOSTS, "SARK_TOPOLOGY": "single"},
            "SARK_TOPOLOGY: got 'single', expected sentinel (or unset) because",
        ),
        (
            {**HOSTS, "SARK_TOPOLOGY": "cluster", "VALKEY_URL": "valkey://h"},
            "SARK_TOPOLOGY: got 'cluster', expected sentinel (or unset) because",
        ),
        ({"VALKEY_SENTINEL_HOSTS": "a:1"}, "VALKEY_SENTINEL_MASTER: got nothing, expected the"),
        (
            {"VALKEY_SENTINEL_MASTER": "m"},
            "VALKEY_SENTINEL_MASTER: got 'm', expected VALKEY_SENTINEL_HOSTS",
        ),
        (
            {"SARK_TOPOLOGY": "sentinel"},
            "SARK_TOPOLOGY: got 'sentinel', expected VALKEY_SENTINEL_HOSTS",
        ),
        ({"SARK_TOPOLOGY": "cluster"}, "SARK_TOPOLOGY: got 'cluster', expected VALKEY_URL"),
    ],
)
@pytest.mark.usefixtures("every_topology")
def test_contradictions(environ: dict[str, str], line: str) -> None:
    message = refusal(environ)
    assert message.startswith(line)
    assert "\n" not in message


@pytest.mark.parametrize(
    ("environ", "got"),
    [
        (HOSTS, "'sentinel' (VALKEY_SENTINEL_HOSTS implies it)"),
        (
            {**HOSTS, "SARK_TOPOLOGY": "sentinel"},
            "'sentinel' (VALKEY_SENTINEL_HOSTS implies it)",
        ),
        ({"SARK_TOPOLOGY": "cluster", "VALKEY_URL": "valkey://h"}, "'cluster'"),
    ],
)
def test_this_version_runs_one_server(environ: dict[str, str], got: str) -> None:
    line = refusal(environ)
    assert line.startswith(f"SARK_TOPOLOGY: got {got}, expected single because this version ")
    assert line.endswith(" yet")


@pytest.mark.parametrize(
    ("environ", "replicas", "tags"),
    [
        ({}, 0, False),
        ({"SARK_WAIT_REPLICAS": "2"}, 2, False),
        (HOSTS, 1, False),
        ({**HOSTS, "SARK_WAIT_REPLICAS": "0"}, 0, False),
        ({"SARK_TOPOLOGY": "cluster", "VALKEY_URL": "valkey://h"}, 0, True),
    ],
)
@pytest.mark.usefixtures("every_topology")
def test_what_the_topology_implies(environ: dict[str, str], replicas: int, tags: bool) -> None:
    settings = load(environ)
    assert settings.effective_wait_replicas == replicas
    assert settings.cluster_tags is tags
    row = next(row for row in describe(settings, environ) if row.variable == "SARK_WAIT_REPLICAS")
    assert row.current == str(replicas)
    assert row.source == ("environment" if "SARK_WAIT_REPLICAS" in environ else "implied")


# Rules between settings


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"SARK_TTL_HIGH": "901"}, ["SARK_TTL_HIGH"]),
        ({"SARK_TTL_LOW": "899"}, ["SARK_TTL_MEDIUM"]),
        (
            {"SARK_TTL_HIGH": "3", "SARK_TTL_MEDIUM": "2", "SARK_TTL_LOW": "1"},
            ["SARK_TTL_HIGH", "SARK_TTL_MEDIUM"],
        ),
    ],
)
def test_ttl_order(environ: dict[str, str], named: list[str]) -> None:
    lines = refusal(environ).split("\n")
    assert [line.partition(":")[0] for line in lines] == named
    assert all("(seconds)" in line for line in lines)


def test_a_breaker_stays_open_at_most_as_long_as_its_cap() -> None:
    line = refusal({"SARK_SIEM_BREAKER_OPEN": "3", "SARK_SIEM_BREAKER_OPEN_CAP": "2"})
    assert line.startswith("SARK_SIEM_BREAKER_OPEN_CAP: got 2, expected at least")


@pytest.mark.parametrize("grace", ["60", "61"])
def test_the_grace_is_shorter_than_the_access_token(grace: str) -> None:
    life = {"SARK_ACCESS_TOKEN_TTL": "60"}
    assert refusal({**life, "SARK_REFRESH_GRACE": grace}).startswith("SARK_REFRESH_GRACE: got")
    load({**life, "SARK_REFRESH_GRACE": "59"})


def test_every_event_fits_in_an_empty_queue() -> None:
    bound = {"SARK_SIEM_MAX_BYTES": "30000"}
    assert refusal(bound) == (
        "SARK_SIEM_EVENT_BYTES: got 32768, expected at most SARK_SIEM_MAX_BYTES, which is 30000 "
        "(bytes)"
    )
    load({**bound, "SARK_SIEM_EVENT_BYTES": "30000"})


def test_every_event_fits_in_an_empty_spill_store() -> None:
    sinks = {"SARK_SIEM_SINKS": "main=stdout:,copy=stdout:"}
    assert refusal({**sinks, "SARK_SPILL_MAX_BYTES": "65535"}) == (
        "SARK_SPILL_MAX_BYTES: got 65535, expected 0 or at least 65536: SARK_SIEM_EVENT_BYTES for "
        "each of 2 sinks (bytes)"
    )
    for enough in ("0", "65536"):
        load({**sinks, "SARK_SPILL_MAX_BYTES": enough})


def test_equal_ttls_are_in_order() -> None:
    load({"SARK_TTL_HIGH": "60", "SARK_TTL_MEDIUM": "60", "SARK_TTL_LOW": "60"})


def test_tokens_must_differ() -> None:
    line = refusal({"SARK_ADMIN_TOKEN": SENTINEL, "SARK_SERVICE_TOKEN": SENTINEL})
    assert line.startswith("SARK_SERVICE_TOKEN: got the same value as SARK_ADMIN_TOKEN")
    assert SENTINEL not in line
    load({"SARK_ADMIN_TOKEN": SENTINEL, "SARK_SERVICE_TOKEN": SENTINEL + "2"})


@pytest.mark.parametrize(
    "variable", ["OPA_TOKEN", "OPA_CA_FILE", "OPA_CLIENT_CERT_FILE", "OPA_CLIENT_KEY_FILE"]
)
def test_what_leads_to_opa_needs_its_url(variable: str) -> None:
    lines = refusal({variable: SENTINEL}).split("\n")
    assert f"{variable}: got a value, expected OPA_URL to be set too" in lines


@pytest.mark.parametrize("url", ["http://opa:8181", "unix:///opa.sock"])
def test_certificates_need_tls(url: str) -> None:
    files = {"OPA_CLIENT_CERT_FILE": "c", "OPA_CLIENT_KEY_FILE": "k", "OPA_CA_FILE": "ca"}
    lines = refusal({"OPA_URL": url, **files}).split("\n")
    assert [line.partition(":")[0] for line in lines] == sorted(files)
    assert all(f"expected OPA_URL to begin with https:// (it is '{url}')" in line for line in lines)
    load({"OPA_URL": "https://opa", **files})


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ("OPA_CLIENT_CERT_FILE", "OPA_CLIENT_KEY_FILE"),
        ("OPA_CLIENT_KEY_FILE", "OPA_CLIENT_CERT_FILE"),
    ],
)
def test_a_certificate_and_its_key_belong_together(given: str, missing: str) -> None:
    line = refusal({"OPA_URL": "https://opa", given: "file"})
    assert line == f"{missing}: got nothing, expected a path because {given} is set"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "LOCALHOST"])
def test_loopback_needs_no_credential(host: str) -> None:
    check_exposure(load({"SARK_HOST": host}))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "sark.example", "localhost.example"])  # noqa: S104
def test_exposure_without_credential_is_refused(host: str) -> None:
    with pytest.raises(SettingsError) as caught:
        check_exposure(load({"SARK_HOST": host, "SARK_ADMIN_TOKEN": SENTINEL}))
    line = str(caught.value)
    assert line.startswith(f"SARK_HOST: got '{host}'")
    assert "SARK_SERVICE_TOKEN" in line
    assert "SARK_ALLOW_ANONYMOUS=true" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "way_out", [{"SARK_SERVICE_TOKEN": SENTINEL}, {"SARK_ALLOW_ANONYMOUS": "true"}]
)
def test_exposure_has_two_ways_out(way_out: dict[str, str]) -> None:
    check_exposure(load({"SARK_HOST": "0.0.0.0", **way_out}))  # noqa: S104


# Typos


@pytest.mark.parametrize(
    ("typo", "closest"),
    [
        ("SARK_PROT", "SARK_PORT"),
        ("SARK_ADMIN_TOKN", "SARK_ADMIN_TOKEN"),
        ("SARK_TTL_MEDUIM", "SARK_TTL_MEDIUM"),
        ("SARK_LOGLEVEL", "SARK_LOG_LEVEL"),
    ],
)
def test_unknown_variables_are_typos(typo: str, closest: str) -> None:
    line = f"{typo}: unknown variable, the closest known one is {closest}"
    assert refusal({typo: SENTINEL}) == line


@pytest.mark.parametrize("variable", ["SARK_", "SARK_ÿ", "SARK_\n", "SARK_zzzzzzzz"])
def test_unlike_any_known_variable(variable: str) -> None:
    line = refusal({variable: "1"})
    assert line.isprintable()
    assert "the closest known one is SARK_" in line


def test_what_is_read_elsewhere_is_no_typo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_load, "READ_ELSEWHERE", frozenset({"SARK_TESTS_ONLY"}))
    load({"SARK_TESTS_ONLY": "1"})
    refusal({"SARK_TESTS_ONLI": "1"})


def test_unset_typos_and_other_prefixes_are_ignored() -> None:
    load({"SARK_PROT": "", "VALKEY_EXTRA_FLAGS": "x", "SARKPORT": "1"})


# Secrets


def outputs(settings: Settings, environ: Mapping[str, str]) -> Iterator[str]:
    rows = describe(settings, environ)
    yield from (repr(settings), str(settings), f"{settings}", settings.model_dump_json())
    yield from (repr(settings.model_dump()), str(settings.model_dump(mode="json")))
    yield from (repr(rows), json.dumps([dataclasses.asdict(row) for row in rows]))


@pytest.mark.parametrize(
    "environ",
    [
        {"VALKEY_PASSWORD": SENTINEL},
        {"SARK_ADMIN_TOKEN": SENTINEL},
        {"SARK_SERVICE_TOKEN": SENTINEL},
        {"VALKEY_URL": f"valkey://:{SENTINEL}@h:1/0"},
        {"VALKEY_URL": "valkey://h", "VALKEY_STATE_URL": f"unix://u:{SENTINEL}@/s"},
        {"VALKEY_URL": f"unix:///s?password={SENTINEL}"},
        {"OPA_URL": "http://opa", "OPA_TOKEN": SENTINEL},
    ],
)
def test_secrets_are_never_shown(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(environ)
    secret = getattr(settings, FIELDS[list(environ)[-1]])
    assert SENTINEL in secret.get_secret_value()
    for output in (*outputs(settings, environ), *printed(environ, monkeypatch)):
        assert SENTINEL not in output
        assert "***" in output


@pytest.mark.parametrize(
    "environ",
    [
        {"VALKEY_PASSWORD": SENTINEL + "\udcff"},
        {"SARK_ADMIN_TOKEN": SENTINEL + " "},
        {"SARK_SERVICE_TOKEN": SENTINEL + "é"},
        {"SARK_ADMIN_TOKEN": SENTINEL, "SARK_SERVICE_TOKEN": SENTINEL},
        {"SARK_ADMIN_TOKN": SENTINEL},
        {"SARK_ADMIN_TOKEN": SENTINEL, "SARK_PORT": "x"},
        {"SARK_ADMIN_TOKEN": SENTINEL, "SARK_TTL_HIGH": "86400"},
        {"VALKEY_URL": f"valkey://:{SENTINEL}@h:1/x"},
        {"VALKEY_URL": f"valkey://:{SENTINEL}"},
        {"VALKEY_STATE_URL": f"valkey://:{SENTINEL}@h"},
        {"OPA_TOKEN": SENTINEL},
        {"OPA_URL": "http://opa", "OPA_TOKEN": SENTINEL + " "},
        {"OPA_URL": f"http://:{SENTINEL}@h"},
        {"OPA_URL": f"http://h?{SENTINEL}"},
        {"OPA_URL": f"valkey:{SENTINEL}"},
    ],
)
@pytest.mark.parametrize("direct", [False, True])
def test_errors_hold_no_secret(environ: dict[str, str], direct: bool) -> None:
    arguments: dict[str, Any] = {FIELDS.get(name, name): text for name, text in environ.items()}
    with pytest.raises(SettingsError) as caught:
        Settings(**arguments) if direct else load(environ)
    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None
    for output in (str(error), repr(error), "".join(traceback.format_exception(error))):
        assert SENTINEL not in output
        assert str(len(SENTINEL)) not in str(error)


def test_non_secrets_that_terminals_would_obey_are_escaped() -> None:
    rows = describe(load({"SARK_DATA_DIR": "a\x1b[2J\udcff"}), {})
    shown = next(row.current for row in rows if row.variable == "SARK_DATA_DIR")
    assert shown == r"'a\x1b[2J\udcff'"


# Rows, command and reference


def test_rows() -> None:
    environ = {"SARK_PORT": "81", "SARK_POLICIES": "a,b", "SARK_LOG_LEVEL": ""}
    rows = {row.variable: row for row in describe(load(environ), environ)}
    assert sorted(rows) == sorted(FIELDS)  # each in one group
    port, policies = rows["SARK_PORT"], rows["SARK_POLICIES"]
    assert (port.type, port.unit, port.default) == ("whole number", None, "8000")
    assert (port.current, port.source) == ("81", "environment")
    assert (policies.current, policies.default) == ("a,b", "authz")
    assert rows["SARK_LOG_LEVEL"].source == "default"
    assert rows["VALKEY_URL"].current is None
    assert rows["VALKEY_SOCKET_TIMEOUT"].default == "5"
    assert rows["SARK_ALLOW_ANONYMOUS"].default == "false"
    assert rows["SARK_ADMIN_TOKEN"].secret


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_field_is_described(name: str) -> None:
    field = Settings.model_fields[name]
    kind = kind_of(field)
    assert variable_of(field).startswith(("VALKEY_", "SARK_", "OPA_"))
    assert field.description
    assert field.description.endswith(".")
    assert kind.type
    assert kind.accepted
    assert field.default is None or kind.parse(field.default) == field.default


def printed(environ: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    for variable, text in environ.items():
        monkeypatch.setenv(variable, text)
    app = typer.Typer()
    app.command()(settings_command)
    results = [CliRunner().invoke(app, arguments) for arguments in ([], ["--json"])]
    assert [result.exit_code for result in results] == [0, 0], results
    return results[0].output, results[1].output


def test_command_prints_a_table_and_json(monkeypatch: pytest.MonkeyPatch) -> None:
    as_table, as_json = printed({"SARK_PORT": "81", "SARK_HOST": "::1"}, monkeypatch)
    rows = describe(load())
    assert json.loads(as_json) == [dataclasses.asdict(row) for row in rows]
    for row in rows:
        line = next(line for line in as_table.splitlines() if line.split()[:1] == [row.variable])
        assert (row.current or "unset") in line
        assert row.source in line
        assert row.type in line
        assert set((row.unit or "").split()) <= set(as_table.split())
        assert row.description.replace("`", "")[:40] in as_table


@pytest.mark.parametrize("width", [80, 100, 160, 300])
@pytest.mark.parametrize("url", [None, "valkey://" + "h" * 90])
def test_table_folds_instead_of_cutting(width: int, url: str | None) -> None:
    environ = {"VALKEY_URL": url, "SARK_HOST": "::1"} if url else {}
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(table(describe(load(environ), environ), console.width))
    lines, words = capture.get().splitlines(), capture.get().split()
    assert set(FIELDS) <= set(words)
    assert {"milliseconds", "connections", "default", "implied", "127.0.0.1"} <= set(words)
    assert capture.get().count("h" * 9) >= (1 if url else 0)
    assert max(map(len, lines)) <= width
    assert "…" not in capture.get()


def test_reference_is_up_to_date() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == render_markdown(), (
        "docs/settings.md is out of date; run: python -m sark.settings > docs/settings.md"
    )


def test_reference_does_not_depend_on_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SARK_PORT", "nonsense")
    monkeypatch.setenv("VALKEY_PASSWORD", SENTINEL)
    command = [sys.executable, "-m", "sark.settings"]
    run = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True)
    assert run.stdout == render_markdown()
    assert all(f"`{variable}`" in run.stdout for variable in FIELDS)
