"""The ASGI middleware, over real HTTP and a real Valkey."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import Any

import aiohttp
import pytest
from starlette.types import Message, Receive, Scope, Send

from sark.http.client_address import TrustedProxies
from sark.http.ratelimit_fields import LimitFields
from sark.http.ratelimit_middleware import RateLimitMiddleware
from sark.patterns import Patterns
from sark.ratelimit import Identity, Limit, RateLimiter, Rules
from sark.ratelimit.rules import Listed, Rule
from tests.support.applications import served, served_by_processes
from tests.support.gateways import open_store
from tests.support.limited_app import ALL_LIMIT, ROUTE_LIMIT
from tests.support.servers import ValkeyServer
from tests.support.service import assert_problem, http_client
from tests.support.structured_fields import parse_list


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that knows nothing of limits; a header of its own must stay."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept", "headers": [(b"x-own", b"1")]})
        return
    headers = [(b"content-type", b"text/plain"), (b"x-own", b"1")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello"})


@asynccontextmanager
async def limited(server: ValkeyServer, *limits: str, **options: Any) -> AsyncIterator[Any]:
    """The application behind the middleware, at most three requests a minute by default."""
    async with open_store(str(server.url)) as store:
        limiter = RateLimiter(store, None)
        app = RateLimitMiddleware(hello, limiter=limiter, limits=limits or ("3/minute",), **options)
        async with served(app) as url, http_client(url) as http:
            yield http


async def statuses(http: aiohttp.ClientSession, *requests: dict[str, Any]) -> list[int]:
    found = []
    for request in requests:
        async with http.get(request.pop("path", "/"), **request) as response:
            await response.read()
            found.append(response.status)
    return found


def from_address(*addresses: str) -> list[dict[str, Any]]:
    return [{"headers": {"X-Forwarded-For": address}} for address in addresses]


async def test_it_admits_the_limit_and_tells_what_is_left(server: ValkeyServer) -> None:
    async with limited(server) as http:
        for left in (2, 1, 0):
            async with http.get("/") as response:
                assert (response.status, await response.text()) == (200, "hello")
                assert response.headers["X-Own"] == "1"
                assert parse_list(response.headers["RateLimit-Policy"]) == {
                    "middleware": {"q": 3, "w": 60}
                }
                assert parse_list(response.headers["RateLimit"])["middleware"]["r"] == left
        async with http.get("/") as response:
            problem = await assert_problem(response, 429, "quota-exceeded")
            assert response.headers["Retry-After"] == str(problem["retry_after"])
        assert (problem["limit"], problem["policy"]) == ("ip", "middleware")
        assert (problem["quota"], problem["window"]) == (3, 60)
        assert problem["violated-policies"] == ["middleware"]


async def test_a_client_is_its_peer_whatever_it_says(server: ValkeyServer) -> None:
    async with limited(server) as http:
        claims = [
            {"headers": {name: f"{prefix}192.0.2.{n}"}}
            for n, (name, prefix) in enumerate(
                [
                    ("X-Forwarded-For", ""),
                    ("Forwarded", "for="),
                    ("X-Real-IP", ""),
                    ("X-Forwarded-For", "127.0.0.1, "),
                ]
            )
        ]
        assert await statuses(http, *claims) == [200, 200, 200, 429]


async def test_behind_a_proxy_clients_are_told_apart(server: ValkeyServer) -> None:
    proxies = TrustedProxies(count=1)
    async with limited(server, proxies=proxies) as http:
        own = from_address(*[f"9.9.9.{n}, 192.0.2.1" for n in range(4)])
        assert await statuses(http, *own) == [200, 200, 200, 429]
        # The network of an IPv6 address is one client; so are all that hide.
        assert await statuses(http, *from_address("192.0.2.2")) == [200]
        network = from_address("2001:db8::1", "2001:db8::2", "[2001:db8::3]:1", "2001:db8::4")
        assert await statuses(http, *network) == [200, 200, 200, 429]
        hidden = from_address("unknown", "junk", "_x", "192.0.2.7, ?")
        assert await statuses(http, *hidden) == [200, 200, 200, 429]


async def test_whom_it_asks_about_is_a_function(server: ValkeyServer) -> None:
    def identify(scope: Scope) -> Sequence[Identity]:
        key = dict(scope["headers"]).get(b"x-key")
        return [] if key is None else [("apikey", key.decode()), ("user", "all")]

    async with limited(server, "2/minute", "5/hour", identify=identify) as http:
        assert await statuses(http, *[{} for _ in range(5)]) == [200] * 5
        of_one = [{"headers": {"X-Key": "one"}} for _ in range(3)]
        assert await statuses(http, *of_one) == [200, 200, 429]
        # Who shares the user has nothing left either, and is told of all four limits.
        async with http.get("/", headers={"X-Key": "two"}) as response:
            problem = await assert_problem(response, 429, "quota-exceeded")
        assert problem["violated-policies"] == ["middleware-user-60"]
        assert {(state["policy"], state["remaining"]) for state in problem["limits"]} == {
            ("middleware-apikey-60", 2),
            ("middleware-apikey-3600", 5),
            ("middleware-user-60", 0),
            ("middleware-user-3600", 3),
        }


async def test_paths_can_be_left_out(server: ValkeyServer) -> None:
    async with limited(server, "1/minute", exclude=["/health", "/static/*"]) as http:
        paths = ["/health", "/static/", "/static/a/b", "/health"]
        assert await statuses(http, *[{"path": path} for path in paths]) == [200] * 4
        paths = ["/healthy", "/static", "/health/"]
        assert await statuses(http, *[{"path": path} for path in paths]) == [200, 429, 429]


async def test_a_request_may_cost_more(server: ValkeyServer) -> None:
    async with limited(server, "10/minute", cost=4) as http:
        assert await statuses(http, {}, {}, {}) == [200, 200, 429]


async def test_services_on_one_valkey_are_apart_by_namespace(server: ValkeyServer) -> None:
    for namespace, expected in (("", 200), ("", 429), ("shop", 200), ("blog", 200), ("shop", 429)):
        async with limited(server, "1/minute", namespace=namespace) as http:
            assert await statuses(http, {}) == [expected]


async def test_other_fields_or_none(server: ValkeyServer) -> None:
    async with limited(server, fields=LimitFields("refused", "seconds")) as http:
        async with http.get("/") as response:
            assert not [name for name in response.headers if "ratelimit" in name.lower()]
        assert await statuses(http, {}, {}) == [200, 200]
        async with http.get("/") as response:
            assert response.headers["X-RateLimit-Limit"] == "3"


async def test_without_limits_of_its_own_the_limiters_rules_apply(server: ValkeyServer) -> None:
    async with open_store(str(server.url)) as store:
        app = RateLimitMiddleware(hello, limiter=RateLimiter(store, Limit(2)))
        async with served(app) as url, http_client(url) as http:
            async with http.get("/") as response:
                assert parse_list(response.headers["RateLimit-Policy"]) == {"ip": {"q": 2, "w": 60}}
            assert await statuses(http, {}, {}) == [200, 429]


async def test_the_limiters_rules_may_go_by_path(server: ValkeyServer) -> None:
    rule = Rule("api", ("ip",), (Limit(1),), paths=Patterns(["/api/*"]))
    async with open_store(str(server.url)) as store:
        app = RateLimitMiddleware(hello, limiter=RateLimiter(store, Rules(None, (rule,))))
        async with served(app) as url, http_client(url) as http:
            paths = ["/api/a", "/api/b", "/other", "/api"]
            found = await statuses(http, *[{"path": path} for path in paths])
    assert found == [200, 429, 200, 200]


async def test_the_limiters_rules_may_go_by_tier_action_and_cost(server: ValkeyServer) -> None:
    def header(name: bytes) -> Any:
        return lambda scope: (dict(scope["headers"]).get(name) or b"").decode()

    def cost(scope: Scope) -> int | None:
        return int(dict(scope["headers"]).get(b"x-cost", b"0")) or None

    rules = Rules(
        None,
        (
            Rule("exports", ("ip",), (Limit(10),), actions=Patterns(["report:*"])),
            Rule("gold", ("ip",), (Limit(20),), tiers=frozenset({"gold"})),
        ),
        costs=[(Patterns(["report:*"]), 5)],
    )
    given = {"tier": header(b"x-tier"), "action": header(b"x-action"), "cost": cost}
    async with open_store(str(server.url)) as store:
        app = RateLimitMiddleware(hello, limiter=RateLimiter(store, rules), **given)
        async with served(app) as url, http_client(url) as http:

            async def left(**headers: str) -> dict[str, Any]:
                async with http.get("/", headers=headers) as response:
                    fields = parse_list(response.headers.get("RateLimit", '"none";r=0'))
                    return {name: each["r"] for name, each in fields.items()}

            assert await left() == {"none": 0}
            assert await left(**{"X-Tier": "gold"}) == {"gold": 19}
            assert await left(**{"X-Tier": "gold", "X-Cost": "4"}) == {"gold": 15}
            assert await left(**{"X-Action": "report:a"}) == {"exports": 5}
        app = RateLimitMiddleware(hello, limiter=RateLimiter(store, rules), tier="gold", cost=5)
        async with served(app) as url, http_client(url) as http:
            assert await statuses(http, {}, {}, {}, {}) == [200, 200, 200, 429]


async def test_in_shadow_mode_it_refuses_nobody(server: ValkeyServer) -> None:
    async with limited(server, "1/minute", shadow=True) as http:
        for _ in range(3):
            async with http.get("/") as response:
                assert response.status == 200
                assert "RateLimit" not in response.headers


async def test_the_limiters_lists_apply_and_may_change(server: ValkeyServer) -> None:
    own = Listed(networks=(ip_network("127.0.0.0/8"),))
    async with open_store(str(server.url)) as store:
        limiter = RateLimiter(store, Rules(None, allow=own))
        app = RateLimitMiddleware(hello, limiter=limiter, limits=["1/minute"])
        async with served(app) as url, http_client(url) as http:
            assert await statuses(http, {}, {}, {}) == [200] * 3
            limiter.rules = Rules(None)
            assert await statuses(http, {}, {}) == [200, 429]
            limiter.rules = Rules(None, deny=own)
            async with http.get("/") as response:
                problem = await assert_problem(response, 403, "limit-denied")
                assert not {"RateLimit", "RateLimit-Policy", "Retry-After"} & {*response.headers}
            assert (problem["limit"], problem["policy"]) == ("ip", "deny")
            assert problem["detail"] == "this ip is on the deny-list"
            assert not {"retry_after", "quota", "violated-policies"} & {*problem}


async def test_a_burst_is_told(server: ValkeyServer) -> None:
    async with limited(server, "20/hour burst 2") as http:
        async with http.get("/") as response:
            policy = parse_list(response.headers["RateLimit-Policy"])["middleware"]
            assert policy == {"q": 20, "w": 3600, "sark-burst": 2}
            assert parse_list(response.headers["RateLimit"])["middleware"]["r"] == 1
        assert await statuses(http, {}) == [200]
        async with http.get("/") as response:
            assert response.status == 429
            # Another request is admitted after three minutes, all of the burst after six.
            wait = int(response.headers["Retry-After"])
            assert 170 < wait <= 180
            assert parse_list(response.headers["RateLimit"])["middleware"] == {"r": 0, "t": wait}


@pytest.mark.heavy
async def test_two_processes_admit_exactly_the_limit(server: ValkeyServer) -> None:
    """Also on a route, whose limit is apart from the middleware's."""
    # Time enough: a busy machine must not be taken for a dead server.
    where = {"VALKEY_URL": str(server.url), "SARK_REQUEST_BUDGET_MS": "30000"}
    with served_by_processes("tests.support.limited_app:app", 2, **where) as urls:
        async with http_client(urls[0]) as one, http_client(urls[1]) as two:

            async def ask(number: int, path: str) -> int:
                http = (one, two)[number % 2]
                async with http.get(path) as response:
                    await response.read()
                    return response.status

            async def ask_often(path: str) -> Counter[int]:
                return Counter(await asyncio.gather(*(ask(n, path) for n in range(200))))

            assert await ask_often("/free/for/all") == {200: 200}
            assert await ask_often("/limited") == {200: ROUTE_LIMIT, 429: 200 - ROUTE_LIMIT}
            assert await ask_often("/any") == {200: ALL_LIMIT, 429: 200 - ALL_LIMIT}


class TestWithoutValkey:
    @pytest.mark.parametrize(
        ("fallback", "expected"),
        [("closed", [503, 503, 503]), ("open", [200, 200, 200]), ("local", [200, 200, 429])],
    )
    async def test_the_limiter_says_what_happens(
        self, private_server: Any, fallback: Any, expected: list[int]
    ) -> None:
        valkey = private_server()
        async with open_store(str(valkey.url)) as store:
            limiter = RateLimiter(store, None, fallback=fallback)
            app = RateLimitMiddleware(hello, limiter=limiter, limits=("2/minute",))
            async with served(app) as url, http_client(url) as http:
                assert await statuses(http, {}) == [200]
                valkey.kill()
                assert await statuses(http, {}, {}, {}) == expected
                if fallback == "closed":
                    async with http.get("/") as response:
                        await assert_problem(response, 503, "store-unavailable")
                        assert response.headers["Retry-After"] == "1"


class TestWebSockets:
    """By messages: no server with WebSockets is among the dependencies."""

    async def open(
        self,
        server: ValkeyServer,
        times: int,
        extensions: dict[str, Any],
        rules: Rules | None = None,
    ) -> list[list[Message]]:
        async with open_store(str(server.url)) as store:
            limiter = RateLimiter(store, rules)
            app = RateLimitMiddleware(hello, limiter=limiter, limits=("1/minute",))
            conversations = []
            for _ in range(times):
                sent: list[Message] = []

                async def receive() -> Message:
                    return {"type": "websocket.connect"}

                async def send(message: Message, sent: list[Message] = sent) -> None:
                    sent.append(message)

                scope = {
                    "type": "websocket",
                    "path": "/ws",
                    "headers": [],
                    "client": ("192.0.2.1", 1),
                    "extensions": extensions,
                }
                await app(scope, receive, send)
                conversations.append(sent)
        return conversations

    async def test_opening_one_is_charged(self, server: ValkeyServer) -> None:
        opened, refused = await self.open(server, 2, {"websocket.http.response": {}})
        assert [message["type"] for message in opened] == ["websocket.accept"]
        names = [name for name, _ in opened[0]["headers"]]
        assert names == [b"x-own", b"ratelimit-policy", b"ratelimit"]
        start, body = refused
        assert (start["type"], start["status"]) == ("websocket.http.response.start", 429)
        assert b"retry-after" in dict(start["headers"])
        assert b"quota-exceeded" in body["body"]

    async def test_where_the_server_cannot_answer_it_is_closed(self, server: ValkeyServer) -> None:
        _, refused = await self.open(server, 2, {})
        assert refused == [{"type": "websocket.close", "code": 1013, "reason": "rate limit"}]

    async def test_who_is_denied_need_not_try_again(self, server: ValkeyServer) -> None:
        deny = Listed(networks=(ip_network("192.0.2.0/24"),))
        cases: list[tuple[dict[str, Any], int]] = [
            ({}, 1008),
            ({"websocket.http.response": {}}, 403),
        ]
        for extensions, expected in cases:
            ((first, *_),) = await self.open(server, 1, extensions, Rules(None, deny=deny))
            assert (first.get("code") or first["status"]) == expected


async def test_without_a_limiter_nothing_is_let_through() -> None:
    app = RateLimitMiddleware(hello, limits=["1/minute"])
    async with served(app) as url, http_client(url) as http, http.get("/") as response:
        await assert_problem(response, 500, "internal")


@pytest.mark.parametrize(
    "options",
    [
        {"limits": ["often"]},
        {"limits": ["1/minute", "2/minute"]},
        {"limits": ["1/minute"], "name": "a name"},
        {"limits": ["1/minute"], "namespace": "My App"},
        {"limits": ["1/minute"], "cost": 2},
        {"limits": ["1/minute"], "cost": 0},
        {"limits": ["1/minute"], "tier": "gold"},
        {"shadow": True},
    ],
)
def test_mistakes_show_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="got "):
        RateLimitMiddleware(hello, **options)
