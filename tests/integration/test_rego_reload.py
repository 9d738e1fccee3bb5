"""Reloading large policies in process: the event loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sark.errors import PolicyError
from sark.policy.evaluators import EmbeddedRego, rego_check
from sark.policy.evaluators.embedded_rego import LOADED_HERE_BYTES
from sark.policy.evaluators.rego_check import read_checked
from sark.policy.evaluators.rego_program import RegoProgram
from sark.policy.evaluators.rego_source import RegoSource, in_pieces, read_source
from tests.support.polling import until

POLICY = """package sark.authz
import rego.v1

default decision := {"allow": false}

decision := {"allow": true, "reason": data.teams.members[input.user_id].team}
"""
INPUT = b'{"action":"a","context":{},"resource":"r","user_id":"user-%05d"}'


def write(root: Path, *, users: int, generation: str) -> Path:
    root.mkdir(exist_ok=True)
    (root / "authz.rego").write_text(POLICY)
    (root / "teams").mkdir(exist_ok=True)
    members = {
        f"user-{number:05d}": {"team": f"{generation}-{number}", "roles": ["viewer", "engineer"]}
        for number in range(users)
    }
    (root / "teams" / "data.json").write_text(json.dumps({"members": members}))
    return root


class Pulse:
    """Beats as often as the event loop lets it.

    Attributes:
        longest: Seconds of this thread's work between two beats; what others on the machine do
            does not count.
    """

    def __init__(self) -> None:
        self.longest = 0.0

    @asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        async def beat() -> None:
            last = time.thread_time()
            while True:
                await asyncio.sleep(0)
                now = time.thread_time()
                self.longest = max(self.longest, now - last)
                last = now

        task = asyncio.create_task(beat())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def team(engine: EmbeddedRego, number: int) -> str:
    evaluation = await engine.evaluate("authz", INPUT % number)
    assert evaluation.decision is not None
    return evaluation.decision.reason


@pytest.mark.heavy
async def test_requests_go_on_while_large_policies_are_loaded(tmp_path: Path) -> None:
    root = write(tmp_path, users=12_000, generation="old")
    begun = time.thread_time()
    engine = EmbeddedRego(root, ("authz",))
    at_once = time.thread_time() - begun
    before = engine.revision
    write(root, users=12_000, generation="new")
    pulse = Pulse()
    async with pulse.beating():
        reloading = asyncio.create_task(engine.reload())
        while not reloading.done():
            assert await team(engine, 7) in {"old-7", "new-7"}
            await asyncio.sleep(0.001)
        assert await reloading
    assert engine.revision != before
    assert [await team(engine, number) for number in (0, 11_999)] == ["new-0", "new-11999"]
    assert pulse.longest < at_once / 3, (pulse.longest, at_once)


@pytest.mark.heavy
async def test_broken_policies_cost_no_more_than_their_refusal(tmp_path: Path) -> None:
    root = write(tmp_path, users=12_000, generation="old")
    begun = time.thread_time()
    engine = EmbeddedRego(root, ("authz",))
    at_once = time.thread_time() - begun
    (root / "broken.rego").write_text("package sark.authz\nallow if {")
    pulse = Pulse()
    async with pulse.beating():
        with pytest.raises(PolicyError, match=r"broken\.rego:\d+:\d+: "):
            await engine.reload()
    assert await team(engine, 7) == "old-7"
    assert pulse.longest < at_once / 5, (pulse.longest, at_once)


# The other process


async def test_it_reads_what_this_one_would(tmp_path: Path) -> None:
    root = write(tmp_path, users=9_000, generation="x")
    checked, read = await read_checked(root, ("authz",)), read_source(root)
    assert (checked.root, checked.modules) == (read.root, read.modules)
    assert (checked.revision, checked.pieces) == (read.revision, read.pieces)
    assert len(read.pieces) > 1


async def test_it_refuses_what_this_one_would(tmp_path: Path) -> None:
    (tmp_path / "authz.rego").write_text(POLICY)
    (tmp_path / "data.json").write_text('{"sark": {"authz": {"decision": 1}}}')
    with pytest.raises(PolicyError, match="is data and also a rule") as here:
        RegoProgram(read_source(tmp_path), ("authz",))
    with pytest.raises(PolicyError) as there:
        await read_checked(tmp_path, ("authz",))
    assert str(there.value) == str(here.value)


async def test_one_that_takes_for_ever_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rego_check, "CHECK_SECONDS", 0.01)
    with pytest.raises(PolicyError, match=r"not loaded and checked within 0\.01 s"):
        await read_checked(write(tmp_path, users=1, generation="x"), ("authz",))


async def test_one_that_breaks_is_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(PolicyError, match="the check ended with 1: no output"):
        await read_checked(write(tmp_path, users=1, generation="x"), ("authz",))


async def test_a_cancelled_reload_leaves_what_was(tmp_path: Path) -> None:
    root = write(tmp_path, users=5_000, generation="old")
    assert (root / "teams" / "data.json").stat().st_size > LOADED_HERE_BYTES
    engine = EmbeddedRego(root, ("authz",))
    write(root, users=5_000, generation="new")
    reloading = asyncio.create_task(engine.reload())
    await asyncio.sleep(0.05)
    reloading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reloading
    assert await team(engine, 7) == "old-7"

    async def new() -> bool:
        await engine.reload()
        return await team(engine, 7) == "new-7"

    await until(new, within=20, what="it is reloaded")


# The pieces

leaf = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20)
value = st.recursive(
    leaf,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=12,
)


def merge(into: dict[str, Any], new: dict[str, Any]) -> None:
    for name, item in new.items():
        if name in into:
            merge(into[name], item)
        else:
            into[name] = item


@settings(max_examples=30)
@given(data=st.dictionaries(st.text(max_size=6), value, max_size=6), size=st.integers(1, 60))
def test_the_pieces_are_the_data(data: dict[str, Any], size: int) -> None:
    merged: dict[str, Any] = {}
    for piece in in_pieces(data, size):
        merge(merged, json.loads(piece))
    assert merged == data


@settings(max_examples=30)
@given(data=st.dictionaries(st.text(max_size=6), value, max_size=6), size=st.integers(1, 60))
def test_the_engine_holds_the_same_data_in_pieces(data: dict[str, Any], size: int) -> None:
    module = 'package sark.authz\nimport rego.v1\ndecision := {"allow": true, "all": data.held}\n'

    def held(size: int) -> bytes | str | None:
        pieces = tuple(piece.decode() for piece in in_pieces({"held": data}, size))
        source = RegoSource(Path("x"), (("authz.rego", module),), pieces, "r")
        return RegoProgram(source, ("authz",)).evaluate("authz", INPUT % 1)

    assert held(size) == held(2**20)


def test_no_piece_is_large_unless_one_member_is() -> None:
    data = {"a": {"b": {str(number): "x" * 90 for number in range(1000)}}, "c": ["y" * 90] * 100}
    sizes = [len(piece) for piece in in_pieces(data, 1000)]
    assert len(sizes) > 90
    assert sorted(sizes)[-2] < 1200
