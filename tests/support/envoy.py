"""Envoy as a proxy that injects faults between a sink and its receiver."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.programs import Program
from tests.support.receivers import receiver_program

__all__ = ["ENVOY_STATUSES", "Envoy"]

ENVOY_STATUSES = (401, 413, 429, 500, 503)
EXTENSIONS = "type.googleapis.com/envoy.extensions.filters"
LOCALHOST = "127.0.0.1"


class Envoy(Program):
    """Forwards to a receiver; some requests it answers itself with an error, or holds up.

    Args:
        upstream: The receiver's port.
        timeout: Seconds after which it answers 504 for a receiver that says nothing; what the
            receiver then has is not known, as in real life.
    """

    def __init__(self, upstream: int, *, timeout: float = 30.0) -> None:
        super().__init__(ports=2)
        self._upstream = upstream
        self._timeout = timeout

    def command(self) -> Sequence[str | Path]:
        file = self.directory / "envoy.json"
        file.write_text(json.dumps(self._configuration()))
        # A dynamic base id: several Envoys of one machine share nothing.
        quiet = ("--concurrency", "1", "--log-level", "error", "--use-dynamic-base-id")
        return [receiver_program("envoy"), "-c", file, *quiet]

    def inject(
        self, aborts: Mapping[int, int] | None = None, *, delayed: int = 0, delay_ms: int = 0
    ) -> None:
        """Replace the faults from now on; without arguments there are none.

        Args:
            aborts: Percentage of requests that get a status, by status, one of
                ``ENVOY_STATUSES``. Each is drawn from what the lower ones left, so the sum may
                be more than 100.
            delayed: Percentage of the others that are held up.
            delay_ms: For how long, in milliseconds.
        """
        wanted = dict.fromkeys(ENVOY_STATUSES, 0) | dict(aborts or {})
        assert set(wanted) == set(ENVOY_STATUSES), f"only {ENVOY_STATUSES}: {sorted(wanted)}"
        values = {_abort_key(status): percent for status, percent in wanted.items()}
        values |= {"fault.delay.percent": delayed, "fault.delay.ms": delay_ms}
        self._admin("POST", "runtime_modify", values)

    @property
    def injected(self) -> int:
        """How many requests it has answered itself."""
        answer = json.loads(self._admin("GET", "stats", {"filter": "fault", "format": "json"}))
        return sum(
            stat.get("value", 0)
            for stat in answer["stats"]
            if stat.get("name", "").endswith("aborts_injected")
        )

    def _admin(self, method: str, path: str, query: Mapping[str, object]) -> bytes:
        url = f"http://{self.host}:{self.ports[1]}/{path}?{urllib.parse.urlencode(query)}"
        request = urllib.request.Request(url, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - loopback
            return bytes(answer.read())

    def _configuration(self) -> dict[str, Any]:
        faults = [_abort_filter(status) for status in ENVOY_STATUSES]
        router = {"@type": f"{EXTENSIONS}.http.router.v3.Router"}
        manager = {
            "@type": f"{EXTENSIONS}.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "in",
            "route_config": {"virtual_hosts": [_everything(self._timeout)]},
            "http_filters": [
                *faults,
                _fault_filter({"delay": _DELAY, **_DELAY_KEYS}),
                {"name": "envoy.filters.http.router", "typed_config": router},
            ],
        }
        connections = {"name": "manager", "typed_config": manager}
        return {
            "admin": _address(self.ports[1]),
            "layered_runtime": {"layers": [{"name": "admin", "admin_layer": {}}]},
            "static_resources": {
                "listeners": [
                    {**_address(self.port), "filter_chains": [{"filters": [connections]}]}
                ],
                "clusters": [_cluster(self._upstream)],
            },
        }


_NEVER = {"numerator": 0, "denominator": "HUNDRED"}
_DELAY = {"fixed_delay": "0.001s", "percentage": _NEVER}
_DELAY_KEYS = {
    "delay_percent_runtime": "fault.delay.percent",
    "delay_duration_runtime": "fault.delay.ms",
}


def _abort_key(status: int) -> str:
    return f"fault.abort.{status}.percent"


def _abort_filter(status: int) -> dict[str, Any]:
    abort = {"http_status": status, "percentage": _NEVER}
    return _fault_filter({"abort": abort, "abort_percent_runtime": _abort_key(status)})


def _fault_filter(fault: Mapping[str, Any]) -> dict[str, Any]:
    config = {"@type": f"{EXTENSIONS}.http.fault.v3.HTTPFault", **fault}
    return {"name": "envoy.filters.http.fault", "typed_config": config}


def _everything(timeout: float) -> dict[str, Any]:
    route = {"cluster": "receiver", "timeout": f"{timeout}s"}
    routes = [{"match": {"prefix": "/"}, "route": route}]
    return {"name": "everything", "domains": ["*"], "routes": routes}


def _cluster(port: int) -> dict[str, Any]:
    endpoints = [{"lb_endpoints": [{"endpoint": _address(port)}]}]
    return {
        "name": "receiver",
        "connect_timeout": "1s",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "receiver", "endpoints": endpoints},
    }


def _address(port: int) -> dict[str, Any]:
    return {"address": {"socket_address": {"address": LOCALHOST, "port_value": port}}}
