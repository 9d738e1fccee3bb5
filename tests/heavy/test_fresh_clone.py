"""The README's command as a newcomer types it: in a fresh clone, with nothing set up."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.support.polling import until_sync

CHECKOUT = Path(__file__).resolve().parents[2]
START_SECONDS = 300.0
STOP_SECONDS = 60.0

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]


def git(*arguments: str | Path, cwd: Path) -> str:
    done = subprocess.run(["git", *arguments], cwd=cwd, capture_output=True, text=True, check=True)
    return done.stdout


@contextmanager
def make_run(checkout: Path, output: Path) -> Iterator[str]:
    """Type ``make run``; gives the service's address."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SARK_", "VALKEY_", "OPA_"))}
    with output.open("wb") as log:
        service = subprocess.Popen(
            ["make", "run"],
            cwd=checkout,
            env=kept | {"PYTHON": sys.executable, "SARK_PORT": "0"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def address() -> str | None:
        text = output.read_text()
        assert service.poll() is None, text
        found = re.search(r"service +(http://\S+)/v1/authorize", text)
        return found[1] if found else None

    try:
        until_sync(lambda: address() is not None, within=START_SECONDS, what="the service is ready")
        yield str(address())
    finally:
        os.killpg(service.pid, signal.SIGINT)
        service.wait(STOP_SECONDS)


async def test_make_run_serves_from_a_fresh_clone(tmp_path: Path) -> None:
    checkout = tmp_path / "sark"
    git("clone", "--quiet", CHECKOUT, checkout, cwd=tmp_path)
    with make_run(checkout, tmp_path / "output") as address:
        async with aiohttp.ClientSession(address) as http:
            body = {"user_id": "user-0001", "action": "server:read", "resource": "server/web-001"}
            async with http.post("/v1/authorize", json=body) as response:
                assert response.status == 200
                assert (await response.json())["decision_id"]
            async with http.get("/health/ready") as response:
                assert response.status == 200
    # What it made is its own: the clone is as clean as git left it.
    assert git("status", "--porcelain", cwd=checkout) == ""
