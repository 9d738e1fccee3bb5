"""``sark serve`` as a process of its own, started the way a person would."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import (
    asynccontextmanager,
    contextmanager,
    redirect_stderr,
    redirect_stdout,
    suppress,
)
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self, cast
from unittest.mock import patch

import aiohttp
import valkey

from tests.support.polling import until_sync
from tests.support.processes import is_gone

__all__ = [
    "CHECKOUT",
    "POLICIES",
    "SARK",
    "SarkService",
    "assert_problem",
    "call_sark",
    "environment",
    "http_client",
    "run_sark",
    "valkey_servers_in",
    "write_policies",
]

CHECKOUT = Path(__file__).parents[2]
SARK = Path(sys.executable).with_name("sark")
START_SECONDS = 30.0
STOP_SECONDS = 20.0
QUEUE = "siem:event_queue"
# The one problem type that isn't ours, from the draft of the RateLimit fields.
QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"

POLICIES = {
    "authz.rego": """package sark.authz
import rego.v1

default decision := {"allow": false, "reason": "nothing permits this"}

decision := {"allow": true, "reason": "readers may read"} if endswith(input.action, ":read")

decision := {"allow": true, "reason": "never kept", "cacheable": false} if input.action == "fresh"

decision := {"allow": true, "reason": "kept shortly", "ttl": 7} if input.action == "short"

decision := {"allow": input.context.allow, "reason": "as the context says"} if {
	input.action == "context"
}
""",
    "silent.rego": """package sark.silent
import rego.v1

decision := {"allow": true, "reason": "spoken to"} if input.action == "speak"
""",
    "broken.rego": """package sark.broken
import rego.v1

decision := {"allow": true, "reason": sprintf("%d", [to_number(input.resource)])}
""",
}


def write_policies(directory: Path, files: Mapping[str, str] = POLICIES) -> Path:
    """Write a policy set; returns its directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text)
    return directory


def environment(**variables: object) -> dict[str, str]:
    """Build the environment of a process: this one's, without settings but the given ones."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SARK_", "VALKEY_"))}
    return {**kept, **{name: str(value) for name, value in variables.items() if value is not None}}


def run_sark(
    *arguments: str, cwd: Path = CHECKOUT, timeout: float = START_SECONDS, **variables: object
) -> subprocess.CompletedProcess[str]:
    """Run a ``sark`` command to its end, with a data directory of its own unless one is named."""
    with TemporaryDirectory(prefix="sark-") as own:
        return subprocess.run(
            [SARK, *arguments],
            cwd=cwd,
            env=environment(**{"SARK_DATA_DIR": own, **variables}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


def call_sark(*arguments: str, **variables: object) -> subprocess.CompletedProcess[str]:
    """Run a ``sark`` command in this process, which saves half a second of imports.

    Its data directory is its own unless one is named, so that nothing is left in the checkout's.
    Not for commands that configure logs or handle signals.
    """
    from sark.cli import main

    out, err, code = StringIO(), StringIO(), 0
    with (
        TemporaryDirectory(prefix="sark-") as own,
        patch.dict(os.environ, environment(**{"SARK_DATA_DIR": own, **variables}), clear=True),
        patch.object(sys, "argv", ["sark", *arguments]),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


class SarkService:
    """One ``sark serve``; its data, logs and policies are in a directory of its own.

    Args:
        directory: Where to keep everything.
        arguments: Of the command.
        command: What to run instead of ``sark serve``.
        variables: Its settings; None leaves one of the defaults below out.
    """

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        command: Sequence[str | Path] = (SARK, "serve"),
        **variables: object,
    ) -> None:
        self.directory = directory
        self.data_dir = directory / "data"
        self.policy_dir = directory / "policies"
        if not self.policy_dir.exists():
            write_policies(self.policy_dir)
        defaults: dict[str, object] = {
            "SARK_PORT": 0,
            "SARK_DATA_DIR": self.data_dir,
            "SARK_POLICY_DIR": self.policy_dir,
            "SARK_KEY_DIR": directory / "keys",
            # Exact times, and one cache to reason about, where a test doesn't ask for more.
            "SARK_TTL_JITTER": 0,
            "SARK_NEAR_CACHE_ENTRIES": 0,
            # Warmed after a restart, one answer in sixteen would come from the cache.
            "SARK_HOT_SAMPLE": 0,
            "SARK_POLICIES": "authz,silent,broken",
            # Its queue is what tests look at.
            "SARK_SIEM_FORWARD": "false",
            "SARK_LOG_FORMAT": "json",
        }
        self._environment = environment(**{**defaults, **variables})
        self._command = [*command, *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the service was not started"
        return self._process

    @property
    def stdout(self) -> str:
        return (self.directory / "stdout").read_text()

    @property
    def stderr(self) -> str:
        return (self.directory / "stderr").read_text()

    @property
    def logs(self) -> list[dict[str, Any]]:
        """Its log lines, each of which must be a JSON object."""
        return [json.loads(line) for line in self.stderr.splitlines()]

    @property
    def run_file(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.data_dir / "run.json").read_bytes())
        return found

    @property
    def url(self) -> str:
        """Where it serves: from the run file, or from its summary when it has none."""
        with suppress(FileNotFoundError):
            return str(self.run_file["http"])
        found = re.search(r"service +(http\S+)/v1/authorize", self.stdout)
        assert found is not None, f"no address in the summary: {self.stdout}"
        return found[1]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def admin(self) -> dict[str, str]:
        """Headers with the admin token that it generated."""
        return {"Authorization": f"Bearer {self.run_file['admin_token']}"}

    @contextmanager
    def valkey(self) -> Iterator[valkey.Valkey]:
        """Connect to its embedded server."""
        with valkey.Valkey.from_url(self.run_file["valkey_url"], socket_timeout=5.0) as client:
            yield client

    def events(self) -> list[dict[str, Any]]:
        """Read its audit queue, oldest first."""
        with self.valkey() as client:
            events = cast("list[bytes]", client.lrange(QUEUE, 0, -1))
        return [json.loads(event) for event in events]

    def launch(self) -> Self:
        """Start it without waiting."""
        assert self._process is None or self._process.poll() is not None, "it runs already"
        with (
            (self.directory / "stdout").open("wb") as out,
            (self.directory / "stderr").open("wb") as err,
        ):
            self._process = subprocess.Popen(
                self._command,
                cwd=CHECKOUT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        return self

    def start(self) -> Self:
        """Start it and wait for its summary."""
        self.launch()
        until_sync(
            lambda: self.process.poll() is not None or "  try  " in self.stdout,
            within=START_SECONDS,
            what="the service prints its summary",
        )
        assert self.process.poll() is None, f"it ended: {self.stderr}"
        return self

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send it a signal and wait for its end; returns the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end; returns the exit code."""
        return self.process.wait(STOP_SECONDS)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it if it still runs; a test that cares about how it ends has called ``stop``."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"the service ignored SIGTERM: {self.stderr}") from None


def valkey_servers_in(directory: Path) -> list[int]:
    """List the living valkey-servers that work in a directory or below."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or is_gone(int(entry.name)):
            continue
        with suppress(OSError):
            name = (entry / "comm").read_text()
            place = Path((entry / "cwd").readlink())
            if name.startswith("valkey-server") and place.is_relative_to(directory):
                found.append(int(entry.name))
    return found


@asynccontextmanager
async def http_client(service: SarkService | str) -> AsyncIterator[aiohttp.ClientSession]:
    """Open a client whose paths are relative to a service."""
    base = service if isinstance(service, str) else service.url
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(base, timeout=timeout) as session:
        yield session


async def assert_problem(
    response: aiohttp.ClientResponse, status: int, kind: str = "", *, field: str = ""
) -> dict[str, Any]:
    """Check that a response is a problem document of the form that is documented; returns it."""
    body = await response.read()
    assert response.status == status, body
    assert response.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = json.loads(body)
    ours = f"urn:sark:problem:{kind}" if kind else "about:blank"
    assert problem["type"] == (QUOTA_EXCEEDED if kind == "quota-exceeded" else ours), problem
    assert problem["status"] == status
    assert problem["title"]
    assert problem.get("field", "") == field, problem
    return problem
