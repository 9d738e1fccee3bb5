"""What stands in Valkey under which key: questions that look alike, long reasons, bad values."""

from __future__ import annotations

import resource
import struct
from itertools import combinations

import pytest
from zstandard import ZstdCompressor

from sark.policy import Decision
from sark.policy.decision import (
    BEGAN_FRAME,
    MAX_ENTRY_BYTES,
    ZSTD_MAGIC,
    decode_entry,
    is_compressed,
    spell_moment,
)
from tests.support.gateways import Scripted, open_gateway, question
from tests.support.near import near_gateway, warm
from tests.support.servers import ValkeyServer

ALIKE = [
    question(action="read", resource="tool:a/b"),
    question(action="read", resource="tool_a_b"),
    question(action="read", resource="tool/a/b"),
    question(action="read", resource="tool:a:b"),
    question("org:bob", "read", resource="x"),
    question("org", "bob:read", resource="x"),
    question("org", "bob", resource="read:x"),
    question("123:server", "read", resource="456"),
    question("123", "server:read", resource="456"),
    question("*", "read", resource="x"),
    question("?", "read", resource="x"),
    question("[a-z]", "read", resource="x"),
    question("u*", "read", resource="x"),
    question("u\\*", "read", resource="x"),
    question("u1", "read", resource="x"),
    question("u12", "read", resource="x"),
    question("U1", "read", resource="x"),
    question("u1 ", "read", resource="x"),
    question("u1", "read", resource="x", context={"a": "1"}),
    question("u1", "read", resource="x", context={"a": 1}),
    question("u1", "read", resource="x", context={"a": True}),
    question("u1", "read", resource="x", policy="tools"),
]


@pytest.mark.parametrize("key_form", ["full", "compact"])
async def test_questions_that_look_alike_have_decisions_of_their_own(
    server: ValkeyServer, key_form: str
) -> None:
    async def name_it(policy: str, input_json: bytes) -> Decision:
        return Decision(allow=True, reason=f"{policy} {input_json.decode()}")

    async with near_gateway(server.url, Scripted(name_it)) as gateway:
        cache = gateway.decisions.cache
        cache._compact = key_form == "compact"
        keys = {cache.decision_key(asked) for asked in ALIKE}
        assert len(keys) == len(ALIKE)
        for ways in range(3):
            for asked in ALIKE:
                outcome = await gateway.decisions.decide(asked)
                assert outcome.reason == f"{asked.policy} {asked.input.decode()}"
                assert outcome.source == "evaluated" or ways
        with server.client() as client:
            assert {key.decode() for key in client.keys("policy:decision:*")} == keys


async def test_a_revocation_of_one_user_leaves_those_that_look_alike(server: ValkeyServer) -> None:
    users = ["*", "u*", "u1", "u12", "U1", "org:bob", "org", "org%3Abob", "u\\*", "?"]
    async with open_gateway(server.url) as gateway:
        decisions = gateway.decisions
        keys = {decisions.cache.generation_keys(question(user))[2] for user in users}
        assert len(keys) == len(users)
        for user in users:
            await decisions.decide(question(user))
        for user in users:
            await decisions.cache.generations.invalidate_user(user)
            for other in users:
                source = (await decisions.decide(question(other))).source
                assert source == ("evaluated" if other == user else "valkey"), (user, other)


def test_keys_are_as_long_as_promised() -> None:
    assert all(len(one.digest) == 32 for one in ALIKE)
    assert all(one.digest[:16] != other.digest[:16] for one, other in combinations(ALIKE, 2))


@pytest.mark.parametrize("reason", ["because " * 2000, "é" * 5000, "x" * 600, "\x00\u2028" * 300])
async def test_a_long_reason_is_compressed_and_read_back(server: ValkeyServer, reason: str) -> None:
    evaluator = Scripted(Decision(allow=True, reason=reason))
    async with near_gateway(server.url, evaluator) as gateway:
        decisions = gateway.decisions
        await decisions.decide(question())
        await decisions.evaluations.close()
        with server.client() as client:
            stored = client.get(decisions.cache.decision_key(question()))
        assert is_compressed(stored)
        assert len(stored) < len(reason.encode()) / 3
        outcome = await decisions.decide(question())
        assert (outcome.source, outcome.reason) == ("valkey", reason)
        await warm(decisions, question())
        assert (await decisions.decide(question())).reason == reason
        assert len(evaluator.asked) == 1


def bad_values(good: bytes) -> dict[str, bytes]:
    """Values of which none may be taken for a decision; the last ones declare huge contents."""

    moment = BEGAN_FRAME + spell_moment(17).encode()

    def declaring(size: int) -> bytes:
        return moment + ZSTD_MAGIC + b"\xe0" + struct.pack("<Q", size) + b"\x01\x00\x00"

    text = b'{"v":"2000000000hs","allow":true,"reason":"' + b"a" * (64 * MAX_ENTRY_BYTES) + b'"}'
    undeclared = ZstdCompressor(write_content_size=False)
    return {
        "cut short": good[: len(good) // 2],
        "a bit flipped": good[:-5] + bytes([good[-5] ^ 0x10]) + good[-4:],
        "only the magic": ZSTD_MAGIC,
        "only the frame": BEGAN_FRAME,
        "only the moment": moment,
        "without a moment": good[18:],
        "both magics": moment + ZSTD_MAGIC,
        "garbage": moment + ZSTD_MAGIC + b"\xff" * 200,
        "empty": moment + ZstdCompressor().compress(b""),
        "not JSON": moment + ZstdCompressor().compress(b"\x00" * 2000),
        "a real bomb": moment + ZstdCompressor(level=1).compress(text),
        "a bomb of undeclared size": moment + undeclared.compress(text),
        "2 MiB": declaring(2**21),
        "2 GiB": declaring(2**31),
        "1 TiB": declaring(2**40),
        "the most": declaring(2**64 - 1),
        "one less": declaring(2**64 - 2),
        "two less": declaring(2**64 - 3),
    }


async def test_a_bad_value_is_a_cheap_miss_and_overwritten(server: ValkeyServer) -> None:
    evaluator = Scripted(Decision(allow=True, reason="because " * 500))
    async with open_gateway(server.url, evaluator) as gateway:
        decisions, asked = gateway.decisions, question()
        key = decisions.cache.decision_key(asked)
        await decisions.decide(asked)
        await decisions.evaluations.close()
        with server.client() as client:
            good = client.get(key)
            values = bad_values(good)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            for name, value in values.items():
                client.set(key, value, ex=3600)
                found = await decisions.cache.get(asked, decisions.revision)
                assert found.result in {"corrupt", "stale"}, name
                assert (await decisions.decide(asked)).source == "evaluated", name
                await decisions.evaluations.close()
                entry = decode_entry(client.get(key))
                assert entry is not None, name
                assert (entry.allow, entry.reason) == (True, "because " * 500), name
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 32 * 1024, "kilobytes"
