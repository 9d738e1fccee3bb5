"""How the test session is given a live OPA."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]


@pytest.mark.heavy
def test_a_live_opa_is_taken_from_the_environment_of_pytest() -> None:
    """The contract is tried on it; no other test sees the setting."""
    script = (
        "import os, tests.conftest\n"
        "from tests.integration.test_opa_contract import ENGINES\n"
        "from sark.settings import load\n"
        "print(ENGINES, load().opa_url, 'OPA_URL' in os.environ)\n"
    )
    for url, expected in (
        ("http://127.0.0.1:8181", "['reference', 'live'] None False"),
        (None, "['reference'] None False"),
    ):
        taken = ("OPA", "LIVE_OPA", "SARK", "VALKEY")
        environ = {k: v for k, v in os.environ.items() if not k.startswith(taken)}
        if url is not None:
            environ["OPA_URL"] = url
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=CHECKOUT,
            env=environ,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == expected
