"""Scripts and pipelines on a real server: each call once, replies in place, one round trip."""

from __future__ import annotations

import asyncio

import pytest

from sark.errors import StoreCommandError
from sark.store import Script, ScriptCall
from tests.support.polling import until
from tests.support.probe import count_round_trips
from tests.support.servers import ValkeyServer
from tests.support.stores import Reports, lanes_of, open_server

# Adds to a counter and tells its name and value; keys expire, as a test must leave none.
ADD = Script(
    "add",
    """
    local value = server.call('INCRBY', KEYS[1], ARGV[1])
    server.call('EXPIRE', KEYS[1], 60)
    return {KEYS[1], value}
    """,
)
SHOUT = Script("shout", "return string.upper(ARGV[1])")
FAIL = Script("fail", "return server.error_reply('NOPE not today')")
NOT_LUA = Script("not-lua", "this is no lua")


async def test_an_unknown_script_is_loaded_and_runs_once(server: ValkeyServer) -> None:
    reports = Reports()
    async with open_server(server.url, reports=reports) as store:
        assert (await store.run(ADD, ["a"], [2])).value == [b"a", 2]
        assert [event.script for event in reports.scripts_loaded] == ["add"]
        assert (await store.run(ADD, ["a"], [3])).value == [b"a", 5]
        assert len(reports.scripts_loaded) == 1
        await store.execute("SCRIPT", "FLUSH")
        assert (await store.run(ADD, ["a"], [4])).value == [b"a", 9]
        assert len(reports.scripts_loaded) == 2


async def test_a_mixed_pipeline_with_unknown_scripts_does_everything_once(
    server: ValkeyServer,
) -> None:
    reports = Reports()
    async with open_server(server.url, reports=reports) as store:
        for flushed in (1, 2, 3):
            await store.execute("SCRIPT", "FLUSH")
            # One of the two is known, so that only some of the calls have to be repeated.
            await store.run(SHOUT, [], ["warm"])
            reports.scripts_loaded.clear()
            replies = await store.pipeline(
                [
                    ("INCR", "plain"),
                    ScriptCall(ADD, ["a"], [1]),
                    ScriptCall(SHOUT, [], ["first"]),
                    ("ECHO", "between"),
                    ScriptCall(ADD, ["b"], [10]),
                    ("INCR", "plain"),
                    ScriptCall(ADD, ["a"], [1]),
                    ("EXPIRE", "plain", 60),
                ]
            )
            assert replies == [
                2 * flushed - 1,
                [b"a", 2 * flushed - 1],
                b"FIRST",
                b"between",
                [b"b", 10 * flushed],
                2 * flushed,
                [b"a", 2 * flushed],
                1,
            ]
            assert [event.script for event in reports.scripts_loaded] == ["add"]


async def test_error_replies_stay_in_their_place(server: ValkeyServer) -> None:
    async with open_server(server.url) as store:
        for _ in range(2):  # with the scripts unknown, and known
            replies = await store.pipeline(
                [
                    ("SET", "text", "x", "EX", 60),
                    ("INCR", "text"),
                    ScriptCall(FAIL, []),
                    ("ECHO", "after"),
                    ScriptCall(ADD, ["text"], [1]),
                    ScriptCall(SHOUT, [], ["x"]),
                ]
            )
            assert replies[0] == b"OK"
            assert isinstance(replies[1], StoreCommandError)
            assert "not an integer" in str(replies[1])
            assert isinstance(replies[2], StoreCommandError)
            assert "not today" in str(replies[2])
            assert replies[3] == b"after"
            assert isinstance(replies[4], StoreCommandError)
            assert replies[5] == b"X"
        assert store.pool_stats().connects == 1
        assert store.guard.failures == 0


async def test_a_script_that_does_not_compile_says_why(server: ValkeyServer) -> None:
    reports = Reports()
    async with open_server(server.url, reports=reports) as store:
        with pytest.raises(StoreCommandError, match="compiling script"):
            await store.run(NOT_LUA, [])
        replies = await store.pipeline(
            [ScriptCall(NOT_LUA, []), ScriptCall(SHOUT, [], ["x"]), ScriptCall(NOT_LUA, [])]
        )
        assert replies[1] == b"X"
        for refused in (replies[0], replies[2]):
            assert isinstance(refused, StoreCommandError)
            assert "compiling script" in str(refused)
        assert [event.script for event in reports.scripts_loaded] == ["shout"]


async def test_noscript_that_is_not_ours_to_mend_is_an_error_like_others(
    server: ValkeyServer,
) -> None:
    async with open_server(server.url) as store:
        with pytest.raises(StoreCommandError, match="No matching script"):
            await store.execute("EVALSHA", "0" * 40, 0)
        replies = await store.pipeline(
            [("EVALSHA", "0" * 40, 0), ScriptCall(ADD, ["a"], [1]), ("ECHO", "x")]
        )
        assert isinstance(replies[0], StoreCommandError)
        assert replies[1:] == [[b"a", 1], b"x"]
        assert store.pool_stats().connects == 1


async def test_calls_count_once_while_the_scripts_are_flushed_all_the_time(
    server: ValkeyServer,
) -> None:
    client = server.client()
    reports = Reports()
    async with open_server(server.url, pool_size=8, reports=reports) as store:

        async def caller(name: str) -> None:
            for _ in range(20):
                await store.run(ADD, [name], [1])
                await store.pipeline([ScriptCall(ADD, [name], [1]), ("ECHO", "x")])

        calls = asyncio.gather(*(caller(f"counter-{n}") for n in range(20)))
        while not calls.done():
            client.script_flush()
            await asyncio.sleep(0)
        await calls
        totals = await store.pipeline([("GET", f"counter-{n}") for n in range(20)])
    assert totals == [b"40"] * 20
    assert len(reports.scripts_loaded) > 5


async def test_a_loaded_script_costs_one_round_trip_and_so_does_a_pipeline(
    server: ValkeyServer,
) -> None:
    async with count_round_trips(server) as (url, count), open_server(url) as store:
        await store.pipeline([ScriptCall(ADD, ["a"], [1]), ScriptCall(SHOUT, [], ["x"])])
        count.reset()
        await store.run(ADD, ["a"], [1])
        assert count.round_trips == 1
        assert count.commands == {"evalsha": 1, "incrby": 1, "expire": 1}
        count.reset()
        await store.pipeline(
            [ScriptCall(ADD, ["a"], [1]), ("ECHO", "x"), ScriptCall(SHOUT, [], ["x"])] * 20
        )
        assert count.round_trips == 1
        assert count.commands["evalsha"] == 40
        assert count.connections == 0


async def test_a_missing_script_costs_one_more_round_trip(server: ValkeyServer) -> None:
    async with count_round_trips(server) as (url, count), open_server(url) as store:
        await store.execute("PING")
        count.reset()
        await store.run(ADD, ["a"], [1])
        assert count.round_trips == 2


async def test_an_empty_pipeline_costs_nothing(server: ValkeyServer) -> None:
    async with count_round_trips(server) as (url, count), open_server(url) as store:
        assert await store.pipeline([]) == []
        assert count.connections == 0


async def test_large_pipelines_and_replies_arrive_whole(server: ValkeyServer) -> None:
    async with open_server(server.url, pool_size=1) as store:
        large = b"\r\n$3\r\n+OK" * 200_000
        replies = await store.pipeline(
            [("ECHO", f"{n}") for n in range(5000)] + [("ECHO", large)] + [("ECHO", "end")]
        )
    assert replies[:5000] == [str(n).encode() for n in range(5000)]
    assert replies[5000:] == [large, b"end"]


async def test_replies_are_bytes_whatever_they_hold(server: ValkeyServer) -> None:
    async with open_server(server.url) as store:
        assert await store.execute("ECHO", b"\xff\x00\r\n") == b"\xff\x00\r\n"
        assert await store.execute("ECHO", "zażółć 🔑") == "zażółć 🔑".encode()
        assert await store.execute("ECHO", 1.5) == b"1.5"
        assert await store.execute("GET", "nothing") is None


async def test_each_exchange_is_reported_once(server: ValkeyServer) -> None:
    reports = Reports()
    async with open_server(server.url, reports=reports) as store:
        await store.execute("PING")
        await store.pipeline([("PING",), ("NONSENSE",), ScriptCall(ADD, ["a"], [1])])
        with pytest.raises(StoreCommandError):
            await store.execute("NONSENSE")
    assert [(event.commands, event.result) for event in reports.round_trips] == [
        (1, "ok"),
        (3, "ok"),
        (1, "ok"),
    ]
    assert all(0 < event.seconds < 5 for event in reports.round_trips)


async def test_run_id_is_the_servers_and_changes_with_a_restart(server: ValkeyServer) -> None:
    client = server.client()

    def run_id() -> str:
        return str(client.info("server")["run_id"])  # type: ignore[index]

    async with open_server(server.url, pool_size=3) as store:
        replies = await asyncio.gather(*(store.run(SHOUT, [], ["x"]) for _ in range(9)))
        assert {reply.run_id for reply in replies} == {run_id()}
        server.restart()
        await until(lambda: not lanes_of(store).open, within=5, what="the end is noticed")
        after = await asyncio.gather(*(store.run(SHOUT, [], ["x"]) for _ in range(9)))
        assert {reply.run_id for reply in after} == {run_id()}
        assert after[0].run_id != replies[0].run_id
