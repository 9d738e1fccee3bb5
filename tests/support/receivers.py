"""Real receivers of audit events, for the heavy tests.

Tenzir receives as a Splunk HTTP Event Collector, as Elasticsearch's bulk API and by OTLP; it brings
Fluent Bit, whose Splunk input is a second, independent collector. Datadog's test agent takes OTLP
logs, rsyslog syslog. ``make test-heavy`` installs all but rsyslog, which is a package of the
system's. Each writes down what arrives in the order of arrival.
"""

from __future__ import annotations

import json
import os
import shutil
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.support.programs import Program

__all__ = [
    "HEC_TOKEN",
    "OtlpAgent",
    "Rsyslog",
    "Tenzir",
    "bulk_receiver",
    "fluent_bit_receiver",
    "hec_receiver",
    "otlp_receiver",
    "receiver_program",
    "syslog_receiver",
]

HEC_TOKEN = "b0221cd8-c4b4-465a-9a3c-273e3a75aa29"
PROGRAMS = Path(__file__).parents[2] / ".venv-receivers" / "bin"


def receiver_program(name: str) -> Path:
    """Find a program of the receivers' environment.

    Args:
        name: The program's file name.

    Raises:
        AssertionError: That environment is not there.
    """
    found = PROGRAMS / name
    assert found.exists(), f"{found} is missing: `make test-heavy` installs it"
    return found


class Tenzir(Program):
    """A pipeline that receives on a port and writes one JSON object for each event.

    Args:
        source: Its operators up to the event; ``{port}`` in it stands for the port.
        events_a_second: Slow it down to that many, so that it pushes back.
    """

    def __init__(self, source: str, *, events_a_second: int | None = None) -> None:
        super().__init__()
        slow = "" if events_a_second is None else f"throttle rate={events_a_second}\n"
        self._pipeline = f"{source}\n{slow}to_stdout {{ write_ndjson }}\n"

    def command(self) -> Sequence[str | Path]:
        file = self.directory / "receive.tql"
        file.write_text(self._pipeline.replace("{port}", str(self.port)))
        return [receiver_program("tenzir"), "--bare-mode", "-f", file]

    @property
    def arrived(self) -> list[dict[str, Any]]:
        """What has come so far, in order; a line that is still being written is left out."""
        return list(_whole_lines(self.output))


def hec_receiver(
    *,
    ack: bool = False,
    most_pending: int | None = None,
    max_request_size: int = 2**20,
    events_a_second: int | None = None,
) -> Tenzir:
    """Receive as a Splunk HTTP Event Collector does; each arrival is ``{"event": ..., ...}``.

    Args:
        ack: Whether indexer acknowledgement is on; then requests need a channel.
        most_pending: Requests not yet acknowledged above which it answers 503 with code 9.
        max_request_size: Bytes of a request above which it answers 413.
        events_a_second: Take no more than that.
    """
    options = [f'hec_token="{HEC_TOKEN}"', f"max_request_size={max_request_size}"]
    if ack:
        options.append("ack=true")
    if most_pending is not None:
        options.append(f"max_pending_acks={most_pending}")
    source = f'accept_splunk "127.0.0.1:{{port}}", {", ".join(options)}'
    return Tenzir(source, events_a_second=events_a_second)


def fluent_bit_receiver() -> Tenzir:
    """Receive as Fluent Bit's Splunk input; each arrival is ``{"message": {"event": ...}}``."""
    options = f'listen: "127.0.0.1", port: "{{port}}", splunk_token: "{HEC_TOKEN}"'
    return Tenzir(f'from_fluent_bit "splunk", options={{{options}}}')


def bulk_receiver(*, max_request_size: int = 2**20) -> Tenzir:
    """Receive as Elasticsearch's bulk API; arrivals are actions and documents in turn.

    It refuses no single item, and answers with one item for a whole request.

    Args:
        max_request_size: Bytes of a request above which it refuses.
    """
    options = f"keep_actions=true, max_request_size={max_request_size}"
    return Tenzir(f'accept_elasticsearch "127.0.0.1:{{port}}", {options}')


def otlp_receiver() -> Tenzir:
    """Receive OTLP logs over HTTP; each arrival is one log record."""
    return Tenzir('accept_otlp "127.0.0.1:{port}", transport="http", signals=["logs"]')


class OtlpAgent(Program):
    """Datadog's test agent, which takes OTLP logs over HTTP on its first port."""

    def __init__(self) -> None:
        super().__init__(ports=3)

    def command(self) -> Sequence[str | Path]:
        otlp_http, agent, otlp_grpc = map(str, self.ports)
        return [
            *(receiver_program("ddapm-test-agent"), "--port", agent),
            *("--otlp-http-port", otlp_http, "--otlp-grpc-port", otlp_grpc),
            *("--snapshot-dir", self.directory),
        ]

    @property
    def arrived(self) -> list[dict[str, Any]]:
        """The log records so far, in order."""
        url = f"http://{self.host}:{self.port}/test/session/logs"
        with urllib.request.urlopen(url, timeout=10) as answer:
            requests: list[dict[str, Any]] = json.load(answer)
        return [
            record
            for request in requests
            for resource in request["resourceLogs"]
            for scope in resource["scopeLogs"]
            for record in scope["logRecords"]
        ]


class Rsyslog(Program):
    """rsyslog, receiving by TCP or TLS; gives the parts of each message as it understood them.

    Args:
        authority: Whose certificate it shows; None for TCP without TLS.
    """

    def __init__(self, authority: trustme.CA | None = None) -> None:
        super().__init__()
        self._authority = authority

    def command(self) -> Sequence[str | Path]:
        program = shutil.which("rsyslogd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if program is None:
            assert not os.environ.get("CI"), "rsyslog is missing: CI installs it"
            pytest.skip("needs rsyslog and rsyslog-gnutls")
        file = self.directory / "rsyslog.conf"
        file.write_text(self._configuration())
        return [program, "-n", "-f", file, "-i", self.directory / "pid"]

    @property
    def arrived(self) -> list[dict[str, Any]]:
        """The messages so far, in order."""
        return list(_whole_lines(self.directory / "messages"))

    def _configuration(self) -> str:
        parts = {
            "facility": "syslogfacility-text",
            "severity": "syslogseverity-text",
            "timestamp": 'timereported" dateFormat="rfc3339',
            "host": "hostname",
            "app": "app-name",
            "process": "procid",
            "msgid": "msgid",
            "data": "structured-data",
            "message": "msg",
        }
        fields = "".join(
            f' property(outname="{name}" name="{source}" format="jsonf")\n'
            for name, source in parts.items()
        )
        tls, driver = self._tls()
        return (
            f'global(workDirectory="{self.directory}" maxMessageSize="256k"{tls})\n'
            f'module(load="imtcp"{driver})\n'
            f'input(type="imtcp" address="{self.host}" port="{self.port}")\n'
            f'template(name="parts" type="list" option.jsonf="on") {{\n{fields}}}\n'
            f'action(type="omfile" file="{self.directory / "messages"}" template="parts")\n'
        )

    def _tls(self) -> tuple[str, str]:
        if self._authority is None:
            return "", ""
        issued = self._authority.issue_cert(self.host, "localhost")
        files = {
            "CAFile": self._authority.cert_pem,
            "CertFile": issued.cert_chain_pems[0],
            "KeyFile": issued.private_key_pem,
        }
        for name, blob in files.items():
            blob.write_to_path(self.directory / name)
        given = "".join(f' defaultNetstreamDriver{n}="{self.directory / n}"' for n in files)
        mode = ' streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="anon"'
        return given, mode


def syslog_receiver(authority: trustme.CA | None = None) -> Rsyslog:
    """Receive syslog messages, by TLS when an authority is given."""
    return Rsyslog(authority)


def _whole_lines(file: Path) -> Iterator[dict[str, Any]]:
    if file.exists():
        *lines, _ = file.read_bytes().split(b"\n")
        yield from map(json.loads, lines)
