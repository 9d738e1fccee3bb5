"""Which sinks there are, and which configurations of them are refused."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from sark.errors import ConfigurationError
from sark.settings import Settings
from sark.settings._sinks import parse_sinks
from sark.siem import sinks
from sark.siem.sinks.kind import SinkOptions, SinkPlan
from sark.siem.sinks.registry import make_sink, plan_sink, plan_sinks, sink_kinds

TOKEN = SecretStr("s3ntinel-Pa55word-value")
FILE_OF_ONE = """
from sark.siem.sinks.kind import SinkKind
from sark.siem.sinks.options import whole

class Pigeon:
    def __init__(self, plan):
        self.plan = plan

SINK = SinkKind(("pigeon",), ("sark",), Pigeon, {"speed": whole(1, 9, default=5)})
"""


def planned(address: str, token: SecretStr | None = None) -> SinkPlan:
    (parsed,) = parse_sinks(address)
    return plan_sink(parsed, token, SinkOptions())


def test_http_sinks_are_found() -> None:
    schemes = {
        *("splunk+https", "splunk+http", "datadog", "elastic+https", "elastic+http"),
        *("otlp+https", "otlp+http", "webhook+https", "webhook+http"),
    }
    assert schemes <= set(sink_kinds())


def test_every_sink_has_a_format_and_printable_options() -> None:
    for kind in sink_kinds().values():
        assert set(kind.formats) <= {"ocsf", "ecs", "sark", "cef"}
        assert kind.formats
        for option in kind.options.values():
            assert option.expected


def test_adding_a_sink_is_adding_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pigeon.py").write_text(FILE_OF_ONE)
    monkeypatch.setattr(sinks, "__path__", [*sinks.__path__, str(tmp_path)])
    sink_kinds.cache_clear()
    try:
        plan = planned("pigeon://loft?speed=7")
        assert vars(make_sink(plan)) == {"plan": plan}
        assert plan.options == {"format": "sark", "speed": 7}
        assert planned("pigeon://loft").options["speed"] == 5
    finally:
        sys.modules.pop("sark.siem.sinks.pigeon", None)
        vars(sinks).pop("pigeon", None)
        sink_kinds.cache_clear()
    importlib.invalidate_caches()


def test_options_and_their_defaults() -> None:
    plan = planned(
        "splunk+https://h?ack=true&ack_timeout=9&index=audit&format=cef&ca=/a%20b", TOKEN
    )
    assert plan.format == "cef"
    assert not plan.is_json
    assert plan.options == {
        "format": "cef",
        "ca": Path("/a b"),
        "cert": None,
        "key": None,
        "index": "audit",
        "host": None,
        "source": "sark",
        "sourcetype": None,
        "ack": True,
        "ack_timeout": 9,
    }
    assert planned("elastic+https://h").format == "ecs"
    assert planned("elastic+https://h").is_json


@pytest.mark.parametrize(
    ("address", "token", "why"),
    [
        ("carrier://h", None, "got the scheme 'carrier', expected one of "),
        ("splunk://h", TOKEN, "got the scheme 'splunk', expected one of "),
        ("splunk+https://h", None, "expected its credential in SARK_SIEM_MAIN_TOKEN"),
        ("splunk+https:///x", TOKEN, "got 'no host', expected a host after splunk+https://"),
        ("webhook+https:", None, "got 'no host', expected a host after webhook+https://"),
        ("dd=datadog://eu", None, "expected its credential in SARK_SIEM_DD_TOKEN"),
        ("splunk+https://h?indx=a", TOKEN, "got the option 'indx', expected one of ack, "),
        ("splunk+https://h?token=x", TOKEN, "got the option 'token', expected one of ack, "),
        ("splunk+https://h?ack=yes", TOKEN, "got ack='yes', expected true or false"),
        (
            "splunk+https://h?ack_timeout=0",
            TOKEN,
            "got ack_timeout='0', expected a whole number from 1 to 600",
        ),
        ("splunk+https://h?index=A", TOKEN, "got index='A', expected the name of an index"),
        (
            "elastic+https://h?format=cef",
            None,
            "got format='cef', expected one of ecs, ocsf, sark",
        ),
        ("webhook+https://h?body=xml", None, "got body='xml', expected one of array, ndjson"),
        ("datadog://eu?url=http://a@b", TOKEN, "got url='http://a@b', expected an address"),
    ],
)
def test_refusals(address: str, token: SecretStr | None, why: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        planned(address, token)
    message = str(caught.value)
    name = address.partition("=")[0] if address.startswith("dd=") else "main"
    assert message.startswith(f"SARK_SIEM_SINKS: the sink {name}: {why}")
    assert message.isprintable()
    assert TOKEN.get_secret_value() not in message


def test_all_sinks_of_the_settings_are_planned() -> None:
    settings = Settings(
        siem_sinks=parse_sinks("a=webhook+https://h,hec=splunk+https://h"),
        siem_tokens={"hec": TOKEN},
        siem_timeout=3,
        siem_retry_cap=7,
        siem_gzip=False,
    )
    plans = plan_sinks(settings)
    assert [plan.address.name for plan in plans] == ["a", "hec"]
    assert [plan.token for plan in plans] == [None, TOKEN]
    assert plans[0].common == SinkOptions(timeout=3, retry_cap=7, gzip=False)
    assert TOKEN.get_secret_value() not in repr(plans)


def test_a_credential_of_an_impossible_form() -> None:
    plan = planned("webhook+https://h", SecretStr("whsec_???"))
    with pytest.raises(ConfigurationError, match="sink main: expected Base64 behind whsec_"):
        make_sink(plan)
