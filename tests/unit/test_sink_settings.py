"""Which addresses and credentials of sinks the settings take, and how they show them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from sark.errors import SettingsError
from sark.settings import Settings, SinkAddress, describe, load
from sark.settings._sinks import mask_sinks

SENTINEL = "s3ntinel-Pa55word-value"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.startswith("SARK_")]:
        monkeypatch.delenv(variable)


def sinks_of(text: str) -> tuple[SinkAddress, ...]:
    return load({"SARK_SIEM_SINKS": text}).sinks


def refusal(environ: Mapping[str, str]) -> str:
    with pytest.raises(SettingsError) as caught:
        load(environ)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stdout:", SinkAddress("main", "stdout")),
        ("datadog://datadoghq.eu", SinkAddress("main", "datadog", "datadoghq.eu")),
        ("dd=datadog://us5.ddog.com", SinkAddress("dd", "datadog", "us5.ddog.com")),
        ("syslog+tls://h:6514", SinkAddress("main", "syslog+tls", "h", 6514)),
        ("otlp+http://[::1]:4318", SinkAddress("main", "otlp+http", "::1", 4318)),
        ("file:///var/log/a%20b.jsonl", SinkAddress("main", "file", path="/var/log/a%20b.jsonl")),
        (
            "s=splunk+https://HEC.example/base?index=audit&source=a%2Cb%3D",
            SinkAddress(
                "s",
                "splunk+https",
                "hec.example",
                path="/base",
                options=(("index", "audit"), ("source", "a,b=")),
            ),
        ),
    ],
)
def test_addresses(text: str, expected: SinkAddress) -> None:
    (sink,) = sinks_of(text)
    assert sink == expected
    assert sinks_of(str(sink)) == (sink,), "what is shown can be set again"


def test_several_sinks_keep_their_order() -> None:
    sinks = sinks_of("webhook+https://a, file=file:///a , s=splunk+https://b")
    assert [sink.name for sink in sinks] == ["main", "file", "s"]
    assert load({"SARK_SIEM_SINKS": "a=stdout:"}).sinks[0].transport == ""
    assert sinks[0].transport == "https"


def test_without_the_variable_events_go_to_a_file_in_the_data_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    (sink,) = load({"SARK_DATA_DIR": str(folder)}).sinks
    assert str(sink) == f"main=file://{tmp_path}/a%20b/audit.jsonl"
    assert sinks_of(str(sink)) == (sink,)
    assert load({}).sinks[0].path == f"{Path.cwd()}/.sark/audit.jsonl"


@pytest.mark.parametrize(
    ("text", "shown", "why"),
    [
        ("splunk", "***", "main: no scheme such as splunk+https: in lower case"),
        ("SPLUNK://h", "***", "main: no scheme such as splunk+https: in lower case"),
        ("A=stdout:", "stdout:", "a name that is none"),
        ("1=stdout:", "stdout:", "a name that is none"),
        ("=stdout:", "stdout:", "a name that is none"),
        (f"{'a' * 33}=stdout:", "stdout:", "a name that is none"),
        ("a=stdout:,a=stdout:", "a=stdout:,a=stdout:", "a stands in it twice"),
        ("stdout:,stdout:", "stdout:,stdout:", "main stands in it twice"),
        ("stdout:,", "stdout:,***", "main: no scheme such as splunk+https: in lower case"),
        ("s=splunk+https://h/#x", "s=splunk+https://h/***", "s: a fragment (#)"),
        ("splunk+https://h:0", "splunk+https://h:0", "main: a port that is none"),
        ("splunk+https://h:65536", "splunk+https://h:65536", "main: a port that is none"),
        ("splunk+https://:80", "splunk+https://:80", "main: a port that is none"),
        ("otlp+http://[1::2::3]", "otlp+http://[1::2::3]", "main: an IPv6 address that is none"),
        ("file:///a b", "file:***", "main: a character that has to be percent-encoded"),
        ("file:///ä", "file:***", "main: a character that has to be percent-encoded"),
        ("splunk+https:h", "splunk+https:***", "main: not scheme://host:port/path?options"),
        (
            "file:///100%",
            "file:///***",
            "main: a % that is not followed by two hexadecimal digits",
        ),
        (
            "datadog://h?x",
            "datadog://h/***",
            "main: an option that is not written name=value",
        ),
        ("datadog://h?", "datadog://h/***", "main: an option that is not written name=value"),
        ("datadog://h?a=1&a=2", "datadog://h/***", "main: the option a stands in it twice"),
        ("datadog://h?a=%00", "datadog://h/***", "main: the option a is not printable UTF-8"),
        ("datadog://h?a=%FF", "datadog://h/***", "main: the option a is not printable UTF-8"),
        ("file:///a@b", "***", "main: a user or password in the address, or a bare @ in its path"),
    ],
)
def test_refused_addresses(text: str, shown: str, why: str) -> None:
    line = refusal({"SARK_SIEM_SINKS": text})
    assert line.startswith(f"SARK_SIEM_SINKS: got '{shown}' ({why}), expected comma separated")
    assert len(line) < 400


def test_too_many_sinks() -> None:
    text = ",".join(f"s{i}=stdout:" for i in range(17))
    assert "(17 sinks, of at most 16)" in refusal({"SARK_SIEM_SINKS": text})


@pytest.mark.parametrize(
    "text",
    [
        "splunk+https://user:{}@host",
        "splunk+https://{}@host",
        "splunk+https://user:a,{}@host",
        "splunk+https://user:1,b:{}@host",
        "splunk+https://host/{}#",
        "splunk+https://host/{}?x",
        "splunk+https://host?{}",
        "splunk+https://host?token={}&x",
        "{}=stdout:",
        "{}",
        "s={}",
    ],
)
def test_no_refused_address_gives_a_secret_away(text: str) -> None:
    text = text.format(SENTINEL)
    assert SENTINEL not in refusal({"SARK_SIEM_SINKS": text})
    assert SENTINEL not in mask_sinks(text)


@given(st.text(), st.text())
def test_any_text_gives_sinks_or_one_line(before: str, after: str) -> None:
    text = f"{before}:{SENTINEL}@{after}"
    with pytest.raises(SettingsError) as caught:
        Settings(siem_sinks=text)  # type: ignore[arg-type]
    assert str(caught.value).isprintable()
    assert SENTINEL not in str(caught.value)


ADDRESSES = st.builds(
    SinkAddress,
    name=st.from_regex(r"[a-z][a-z0-9_]{0,31}", fullmatch=True),
    scheme=st.from_regex(r"[a-z][a-z0-9]{0,8}(\+[a-z]{1,5})?", fullmatch=True),
    host=st.sampled_from(["h", "a.b-c.example", "10.0.0.1", "::1"]),
    port=st.none() | st.integers(1, 65535),
    path=st.sampled_from(["", "/", "/a/b%2Cc", "/services/collector"]),
    options=st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True),
        st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1).filter(
            lambda text: text.isprintable() and "\ufffd" not in text
        ),
        max_size=3,
    ).map(lambda options: tuple(options.items())),
)


@given(ADDRESSES)
def test_every_address_can_be_written_and_read_again(address: SinkAddress) -> None:
    assert sinks_of(str(address)) == (address,)


# Credentials


def test_credentials_belong_to_sinks() -> None:
    environ = {
        "SARK_SIEM_SINKS": "stdout:,my_hec=splunk+https://h",
        "SARK_SIEM_MY_HEC_TOKEN": SENTINEL,
        "SARK_SIEM_OTHER_TOKEN": "",
    }
    settings = load(environ)
    assert settings.siem_token("my_hec") == SecretStr(SENTINEL)
    assert settings.siem_token("main") is None
    assert SENTINEL not in repr(settings)
    row = next(row for row in describe(settings, environ) if row.variable.endswith("{NAME}_TOKEN"))
    assert (row.current, row.source, row.secret) == ("my_hec=***", "environment", True)


def test_a_credential_of_no_sink_is_a_typo() -> None:
    line = refusal({"SARK_SIEM_SINKS": "hec=splunk+https://h", "SARK_SIEM_HECK_TOKEN": SENTINEL})
    assert line == (
        "SARK_SIEM_HECK_TOKEN: got a value, expected SARK_SIEM_SINKS to name a sink heck "
        "(it names hec)"
    )
    assert refusal({"SARK_SIEM_MAIN_TOKEN": "x"}).endswith("(it names none)")


@pytest.mark.parametrize(
    "variable",
    ["SARK_SIEM_{NAME}_TOKEN", "SARK_SIEM_hec_TOKEN", "SARK_SIEM__TOKEN", "SARK_SIEM_HEC_TOKENS"],
)
def test_other_variables_stay_unknown(variable: str) -> None:
    line = refusal({"SARK_SIEM_SINKS": "hec=splunk+https://h", variable: SENTINEL})
    assert line == (
        f"{variable}: unknown variable, the closest known one is SARK_SIEM_{{NAME}}_TOKEN"
    )


@pytest.mark.parametrize("token", ["a b", "é", f"{SENTINEL}\n"])
def test_refused_credentials_are_not_shown(token: str) -> None:
    line = refusal({"SARK_SIEM_SINKS": "hec=splunk+https://h", "SARK_SIEM_HEC_TOKEN": token})
    assert line == (
        "SARK_SIEM_{NAME}_TOKEN: got a value that is not shown because it is a secret (of hec), "
        "expected printable ASCII characters without spaces"
    )
