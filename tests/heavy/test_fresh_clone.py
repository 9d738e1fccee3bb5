"""The two commands of the README, as a newcomer types them: in a fresh clone, with nothing set up."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from tests.support.polling import until

CHECKOUT = Path(__file__).resolve().parents[2]
START_SECONDS = 300.0

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]


def clone(directory: Path) -> Path:
    target = directory / "sark"
    subprocess.run(["git", "clone", "--quiet", CHECKOUT, target], check=True)
    return target


def environment(**variables: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SARK_", "VALKEY_", "OPA_"))}
    return kept | {"PYTHON": sys.executable, **variables}


async def test_make_run_serves_from_a_fresh_clone(tmp_path: Path) -> None:
    checkout, output = clone(tmp_path), tmp_path / "output"
    with output.open("wb") as log:
        service = subprocess.Popen(
            ["make", "run"],
            cwd=checkout,
            env=environment(SARK_PORT="0"),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        address = await find_address(service, output)
        async with aiohttp.ClientSession(address) as http:
            body = {"user_id": "user-0001", "action": "server:read", "resource": "server/web-001"}
            async with http.post("/v1/authorize", json=body) as response:
                assert response.status == 200
                assert (await response.json())["decision_id"]
            async with http.get("/health/ready") as response:
                assert response.status == 200
    finally:
        os.killpg(service.pid, signal.SIGINT)
        service.wait(60)
    # What it made is its own: the clone is as clean as git left it.
    status = subprocess.run(
        ["git", "status", "--porcelain"], cwd=checkout, capture_output=True, text=True, check=True
    )
    assert status.stdout == ""


async def find_address(service: subprocess.Popen[bytes], output: Path) -> str:
    found: list[str] = []

    def ready() -> bool:
        text = output.read_text()
        assert service.poll() is None, text
        found.extend(re.findall(r"service +(http://\S+)/v1/authorize", text))
        return bool(found)

    await until(ready, within=START_SECONDS, what="the service printed its address")
    return found[0]
