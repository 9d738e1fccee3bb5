"""``RateLimit`` on the routes of other people's FastAPI applications."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import aiohttp
import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException
from starlette.responses import PlainTextResponse, Response
from starlette.types import Message
from starlette.websockets import WebSocket

from sark import Request, load, open_runtime
from sark.events import Hub, LimitShadowed
from sark.fastapi import LimitFields, RateLimit, TrustedProxies, install, open_limiter
from sark.ratelimit import Limit, RateLimiter, Rules
from sark.ratelimit.patterns import Patterns
from sark.ratelimit.rules import Listed, Rule
from tests.support.applications import served
from tests.support.gateways import open_store
from tests.support.polling import until
from tests.support.servers import ValkeyServer
from tests.support.service import assert_problem, http_client, write_policies
from tests.support.structured_fields import parse_list

RULES = """
[rules.api]
kind = "ip"
path = ["/api/*"]
limits = ["{limit}"]
"""


def user(x_user: Annotated[str | None, Header()] = None) -> str | None:
    return x_user


@asynccontextmanager
async def running(
    server: ValkeyServer,
    routes: Callable[[FastAPI], None],
    default: Limit | Rules | None = None,
    **options: Any,
) -> AsyncIterator[aiohttp.ClientSession]:
    """An application with the routes, served; its limiter is opened when it starts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_store(str(server.url)) as store:
            app.state.sark = RateLimiter(store, default)
            yield

    app = FastAPI(lifespan=lifespan)
    install(app, **options)
    routes(app)
    async with served(app) as url, http_client(url) as http:
        yield http


async def get(
    http: aiohttp.ClientSession, path: str = "/", **headers: str
) -> tuple[int, dict[str, Any]]:
    """The status, and the state of each limit by the answer's fields."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    async with http.get(path, headers=headers) as response:
        await response.read()
        return response.status, parse_list(response.headers.get("RateLimit", '"none"'))


async def statuses(
    http: aiohttp.ClientSession, path: str = "/", times: int = 1, **headers: str
) -> list[int]:
    return [(await get(http, path, **headers))[0] for _ in range(times)]


async def test_a_route_admits_its_limit(server: ValkeyServer) -> None:
    def routes(app: FastAPI) -> None:
        @app.get("/", dependencies=[Depends(RateLimit("2/minute", "100/day"))])
        async def index() -> str:
            return "index"

    async with running(server, routes) as http:
        status, limits = await get(http)
        (minute, day) = limits
        assert (status, minute[:13], minute[-3:], day[-6:]) == (
            200,
            "get-2-minute-",
            "-60",
            "-86400",
        )
        assert [limit["r"] for limit in limits.values()] == [1, 99]
        assert await statuses(http) == [200]
        async with http.get("/") as response:
            problem = await assert_problem(response, 429, "quota-exceeded")
            assert response.headers["Retry-After"] == str(problem["retry_after"])
            assert parse_list(response.headers["RateLimit"])[minute]["r"] == 0
            assert [*parse_list(response.headers["RateLimit-Policy"])] == [minute, day]
        assert (problem["limit"], problem["policy"], problem["quota"]) == ("ip", minute, 2)
        # Nothing was charged on the other limit.
        assert [state["remaining"] for state in problem["limits"]] == [0, 98]


async def test_routes_are_apart_unless_they_share_a_name(server: ValkeyServer) -> None:
    shared = RateLimit("1/minute")

    def routes(app: FastAPI) -> None:
        inner = APIRouter(prefix="/inner", dependencies=[Depends(shared)])

        @inner.get("/{item_id}")
        async def item(item_id: str) -> str:
            return item_id

        for prefix in ("/v1", "/v2"):
            app.include_router(inner, prefix=prefix)
        named = [Depends(RateLimit("1/minute", name="named"))]
        for path in ("/a", "/b"):
            app.get(path, dependencies=[Depends(shared)])(user)
            app.post(path, dependencies=[Depends(shared)])(user)
            app.get(f"/named{path}", dependencies=named)(user)

    async with running(server, routes) as http:
        for path in ("/a", "/b"):
            assert await statuses(http, path, 2) == [200, 429]
            async with http.post(path) as response:
                assert response.status == 200
        # What a client puts into the path makes no other route of it; the prefix does.
        assert await statuses(http, "/v1/inner/1") + await statuses(http, "/v1/inner/2") == [
            200,
            429,
        ]
        assert await statuses(http, "/v2/inner/1", 2) == [200, 429]
        assert await statuses(http, "/named/a") + await statuses(http, "/named/b") == [200, 429]


async def test_mounted_applications_are_apart(server: ValkeyServer) -> None:
    """By their functions, and not by what a client puts into the path they are mounted at."""
    limit = RateLimit("1/minute")

    def mounted(answer: str) -> FastAPI:
        app = FastAPI()
        install(app)

        if answer == "one":

            @app.get("/", dependencies=[Depends(limit)])
            async def one() -> str:
                return answer
        else:

            @app.get("/", dependencies=[Depends(limit)])
            async def two() -> str:
                return answer

        return app

    async with open_store(str(server.url)) as store:
        app = FastAPI()
        for name in ("one", "two"):
            part = mounted(name)
            part.state.sark = RateLimiter(store, None)
            app.mount(f"/{name}/{{tenant}}", part)
        async with served(app) as url, http_client(url) as http:
            for name in ("one", "two"):
                found = [await statuses(http, f"/{name}/{tenant}/") for tenant in "abc"]
                assert found == [[200], [429], [429]]


async def test_several_on_one_route_are_apart(server: ValkeyServer) -> None:
    def routes(app: FastAPI) -> None:
        router = APIRouter(dependencies=[Depends(RateLimit("3/hour"))])

        @router.get("/", dependencies=[Depends(RateLimit("9/hour", by=user))])
        async def index() -> str:
            return "index"

        app.include_router(router)

    async with running(server, routes) as http:
        status, limits = await get(http, X_User="ann")
        assert (status, [limit["r"] for limit in limits.values()]) == (200, [2, 8])
        assert await statuses(http, times=3, X_User="bob") == [200, 200, 429]


async def test_two_applications_are_apart_by_namespace(server: ValkeyServer) -> None:
    def routes(app: FastAPI) -> None:
        app.get("/", dependencies=[Depends(RateLimit("1/minute"))])(user)
        app.get("/named", dependencies=[Depends(RateLimit("1/minute", name="named"))])(user)

    for namespace, expected in (("", 200), ("", 429), ("shop", 200), ("blog", 200), ("shop", 429)):
        async with running(server, routes, namespace=namespace) as http:
            for path in ("/", "/named"):
                assert await statuses(http, path) == [expected]


async def test_namespace_and_name_do_not_run_together(server: ValkeyServer) -> None:
    for namespace, name in (("a", "b-c"), ("a-b", "c")):

        def routes(app: FastAPI, name: str = name) -> None:
            app.get("/", dependencies=[Depends(RateLimit("1/minute", name=name))])(user)

        async with running(server, routes, namespace=namespace) as http:
            status, limits = await get(http)
            assert (status, [*limits]) == (200, [f"{namespace}.{name}"])


async def test_by_a_dependency(server: ValkeyServer) -> None:
    """It is called as FastAPI calls any other, and an anonymous client counts by address."""

    def number(x_number: Annotated[int, Header()]) -> int:
        return x_number

    def tenant(
        x_tenant: Annotated[str, Header()], who: Annotated[str | None, Depends(user)]
    ) -> Any:
        return [("apikey", x_tenant), ("user", who or "nobody")]

    def routes(app: FastAPI) -> None:
        app.get("/", dependencies=[Depends(RateLimit("2/minute", by=user))])(user)
        app.get("/key", dependencies=[Depends(RateLimit("1/minute", by=user, kind="apikey"))])(user)
        app.get("/number", dependencies=[Depends(RateLimit("1/minute", by=number))])(user)
        app.get("/tenant", dependencies=[Depends(RateLimit("2/minute", by=tenant))])(user)

    async with running(server, routes) as http:
        for name in ("ann", "bob", "a:b{c}", "x" * 5000):
            assert await statuses(http, times=3, X_User=name) == [200, 200, 429]
        assert await statuses(http, times=3) == [200, 200, 429]
        async with http.get("/") as response:
            assert (await assert_problem(response, 429, "quota-exceeded"))["limit"] == "ip"
        assert await statuses(http, "/key", 2, X_User="ann") == [200, 429]
        for zero in ("0", "1"):
            assert await statuses(http, "/number", 2, X_Number=zero) == [200, 429]
        assert await statuses(http, "/tenant", 3, X_Tenant="t", X_User="ann") == [200, 200, 429]
        assert await statuses(http, "/tenant", X_Tenant="t") == [429]
        assert await statuses(http, "/tenant", X_Tenant="u") == [200]
        # The dependency's own parameters are checked, and a bad request is not charged.
        assert await statuses(http, "/tenant") == [422]


async def test_what_is_no_id_limits_nobody_and_says_so(
    server: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    class User:
        pass

    def pair(x_org: Annotated[str, Header()]) -> tuple[str, str]:
        return x_org, "ann"

    given: list[Any] = [User(), True, 0.5, ["acme", "ann"], b"ann"]

    def routes(app: FastAPI) -> None:
        for number, asker in enumerate(given):
            limit = RateLimit("1/minute", by=lambda asker=asker: asker)
            app.get(f"/{number}", dependencies=[Depends(limit)])(user)
        app.get("/pair", dependencies=[Depends(RateLimit("1/minute", by=pair))])(user)
        app.get("/uuid", dependencies=[Depends(RateLimit("1/minute", by=lambda: UUID(int=7)))])(
            user
        )

    async with running(server, routes) as http:
        for number in range(len(given)):
            assert await statuses(http, f"/{number}") == [500]
            assert f"GET /{number}, limited by a dependency: " in caplog.text
            caplog.clear()
        # What a client puts into a kind selects no other counter.
        for org in ("acme", "user:x"):
            assert await statuses(http, "/pair", X_Org=org) == [500]
        assert await statuses(http, "/uuid", 2) == [200, 429]
    with server.client() as client:
        assert {key.split(b":")[1] for key in client.scan_iter("ratelimit:*")} <= {b"user", b"top"}


async def test_two_identities_of_a_kind_are_told_under_one_name(server: ValkeyServer) -> None:
    def both(x_org: Annotated[str, Header()], x_user: Annotated[str, Header()]) -> Any:
        return [("user", x_user), ("user", x_org)]

    def routes(app: FastAPI) -> None:
        limit = RateLimit("2/minute", by=both, name="both")
        app.get("/", dependencies=[Depends(limit)])(user)

    async with running(server, routes) as http:
        for name, left in (("ann", 1), ("bob", 0)):
            status, limits = await get(http, X_User=name, X_Org="acme")
            assert (status, limits["both"]["r"]) == (200, left)
        async with http.get("/", headers={"X-User": "cy", "X-Org": "acme"}) as response:
            problem = await assert_problem(response, 429, "quota-exceeded")
            assert parse_list(response.headers["RateLimit-Policy"]) == {"both": {"q": 2, "w": 60}}
        assert problem["violated-policies"] == ["both"]
        assert [state["remaining"] for state in problem["limits"]] == [0]


async def test_behind_a_proxy(server: ValkeyServer) -> None:
    def routes(app: FastAPI) -> None:
        app.get("/", dependencies=[Depends(RateLimit("1/minute", by="ip"))])(user)

    async with running(server, routes, proxies=TrustedProxies(count=1)) as http:
        for address in ("192.0.2.1", "192.0.2.2"):
            spoofed = [f"{claim}{address}" for claim in ("", "9.9.9.9, ", "192.0.2.9,junk,")]
            found = [await statuses(http, X_Forwarded_For=value) for value in spoofed]
            assert found == [[200], [429], [429]]


async def test_every_answer_of_a_charged_route_tells_it(server: ValkeyServer) -> None:
    limit = [Depends(RateLimit("100/minute"))]

    def routes(app: FastAPI) -> None:
        @app.get("/response", dependencies=limit)
        async def response() -> Response:
            return PlainTextResponse("made by the route")

        @app.get("/missing", dependencies=limit)
        async def missing() -> None:
            raise HTTPException(404)

        @app.get("/boom", dependencies=limit)
        async def boom() -> None:
            raise ZeroDivisionError

        app.get("/free")(user)

    async with running(server, routes) as http:
        for path, expected in (("/response", 200), ("/missing", 404)):
            status, limits = await get(http, path)
            assert (status, [limit["r"] for limit in limits.values()]) == (expected, [99])
        assert await get(http, "/free") == (200, {"none": {}})
        # Starlette answers an exception without handler outside of every middleware.
        assert await get(http, "/boom") == (500, {"none": {}})


async def test_without_limits_of_its_own_the_limiters_rules_apply(server: ValkeyServer) -> None:
    def routes(app: FastAPI) -> None:
        app.get("/", dependencies=[Depends(RateLimit(by=user))])(user)

    async with running(server, routes, Limit(2)) as http:
        status, limits = await get(http, X_User="ann")
        assert (status, [*limits]) == (200, ["user"])
        assert await statuses(http, times=2, X_User="ann") == [200, 429]


GOLD = Rule("gold", ("user",), (Limit(20),), tiers=frozenset({"gold"}))
EXPORTS = Rule("exports", ("user",), (Limit(10),), actions=Patterns(["report:export"]))
BY_MORE = Rules(None, (EXPORTS, GOLD), costs=[(Patterns(["report:*"]), 5)])


async def test_rules_may_go_by_tier_action_and_cost(server: ValkeyServer) -> None:
    def tier(x_tier: Annotated[str | None, Header()] = None) -> str | None:
        return x_tier

    def action(x_action: Annotated[str | None, Header()] = None) -> str | None:
        return x_action

    def cost(x_cost: Annotated[int | None, Header()] = None) -> Any:
        return x_cost

    def routes(app: FastAPI) -> None:
        given = RateLimit(by=user, tier=tier, action=action, cost=cost)
        app.get("/", dependencies=[Depends(given)])(user)
        fixed = RateLimit(by=user, tier="gold", action="report:read", cost=2)
        app.get("/fixed", dependencies=[Depends(fixed)])(user)
        own = RateLimit("10/minute", by=user, cost=cost)
        app.get("/own", dependencies=[Depends(own)])(user)

    def left(limits: dict[str, Any]) -> dict[str, int]:
        return {name: limit["r"] for name, limit in limits.items() if name != "none"}

    async with running(server, routes, BY_MORE) as http:
        assert left((await get(http, X_User="ann"))[1]) == {}
        assert left((await get(http, X_User="ann", X_Tier="gold"))[1]) == {"gold": 19}
        assert left((await get(http, X_User="ann", X_Action="report:export"))[1]) == {"exports": 5}
        found = await get(http, X_User="ann", X_Tier="gold", X_Action="report:a", X_Cost="3")
        assert left(found[1]) == {"gold": 16}
        assert left((await get(http, X_User="ann", X_Tier="gold", X_Cost="0"))[1]) == {"gold": 16}
        # One that costs more than the limit ever admits could wait forever.
        assert await statuses(http, X_User="ann", X_Tier="gold", X_Cost="21") == [422]
        assert left((await get(http, "/fixed", X_User="bob"))[1]) == {"gold": 18}
        assert [*left((await get(http, "/own", X_User="bob", X_Cost="4"))[1]).values()] == [6]
        assert await statuses(http, "/own", 2, X_User="bob", X_Cost="4") == [200, 429]


async def test_what_is_no_tier_action_or_cost_is_an_error(
    server: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    wrong: list[dict[str, Any]] = [{"tier": 1}, {"action": b"a"}, {"cost": "1"}, {"cost": -1}]

    def routes(app: FastAPI) -> None:
        for number, given in enumerate(wrong):
            options: Any = {name: (lambda value=value: value) for name, value in given.items()}
            app.get(f"/{number}", dependencies=[Depends(RateLimit(**options))])(user)

    async with running(server, routes, BY_MORE) as http:
        for number, given in enumerate(wrong):
            assert await statuses(http, f"/{number}") == [500]
            assert f"{next(iter(given))}: got " in caplog.text
            caplog.clear()


async def test_in_shadow_mode_a_route_refuses_nobody_and_tells_nothing(
    server: ValkeyServer,
) -> None:
    shadowed: list[str] = []
    hub = Hub()
    hub.on(LimitShadowed, lambda event: shadowed.append(event.policy))
    async with open_store(str(server.url), hub=hub) as store:
        app = FastAPI()
        install(app, RateLimiter(store, None))
        tried = RateLimit("1/minute", name="tried", shadow=True)
        app.get("/", dependencies=[Depends(tried)])(user)
        assert "429" not in app.openapi()["paths"]["/"]["get"]["responses"]
        async with served(app) as url, http_client(url) as http:
            assert await get(http) == (200, {"none": {}})
            assert await statuses(http, times=2) == [200, 200]
    assert shadowed == ["tried", "tried"]


async def test_a_runtime_serves_as_well(server: ValkeyServer, tmp_path: Path) -> None:
    environ = {
        "VALKEY_URL": str(server.url),
        "SARK_KEY_DIR": str(tmp_path / "keys"),
        "SARK_DATA_DIR": str(tmp_path / "data"),
        "SARK_POLICY_DIR": str(write_policies(tmp_path / "policies")),
        "SARK_LIMIT_PER_MINUTE": "2",
    }
    async with open_runtime(load(environ)) as runtime:
        app = FastAPI()
        install(app, runtime)
        app.get("/own", dependencies=[Depends(RateLimit("1/minute"))])(user)
        app.get("/", dependencies=[Depends(RateLimit(by=user))])(user)
        async with served(app) as url, http_client(url) as http:
            assert await statuses(http, "/own", 2) == [200, 429]
            # The default limit is the very one of authorize().
            await runtime.authorize(Request(user_id="ann", action="x:read", resource="r"))
            assert await statuses(http, "/", 2, X_User="ann") == [200, 429]


async def test_a_limiter_alone_has_the_rules_of_its_file(
    server: ValkeyServer, tmp_path: Path
) -> None:
    rules = tmp_path / "limits.toml"
    environ = {"VALKEY_URL": str(server.url), "SARK_LIMITS_FILE": str(rules)}
    environ["SARK_POLICY_WATCH_INTERVAL"] = "0.05"

    def write(limit: str) -> None:
        rules.write_text(RULES.format(limit=limit))

    write("1/minute")
    async with open_limiter(load(environ)) as limiter:
        app = FastAPI()
        install(app, limiter)
        app.get("/api/a", dependencies=[Depends(RateLimit())])(user)
        app.get("/other", dependencies=[Depends(RateLimit())])(user)
        async with served(app) as url, http_client(url) as http:
            status, limits = await get(http, "/api/a")
            assert (status, [*limits]) == (200, ["api"])
            assert await statuses(http, "/api/a") == [429]
            assert [*(await get(http, "/other"))[1]] == ["ip"]
            write("3/minute")
            await until(
                lambda: limiter.rules.rules[0].limits[0].requests == 3,
                within=10,
                what="the file is read again",
            )
            assert await statuses(http, "/api/a", 3) == [200, 200, 429]


async def test_who_is_on_the_deny_list_is_forbidden(server: ValkeyServer) -> None:
    def routes(app: FastAPI) -> None:
        app.get("/", dependencies=[Depends(RateLimit("5/minute", by=user))])(user)

    rules = Rules(None, deny=Listed({"user": frozenset({"mallory"})}))
    async with running(server, routes, rules) as http:
        async with http.get("/", headers={"X-User": "mallory"}) as response:
            problem = await assert_problem(response, 403, "limit-denied")
            assert "Retry-After" not in response.headers
        assert (problem["limit"], problem["policy"]) == ("user", "deny")
        assert await statuses(http, X_User="ann") == [200]


async def test_websockets_are_charged_when_opened(server: ValkeyServer) -> None:
    """By messages: no server with WebSockets is among the dependencies."""
    app = FastAPI()

    @app.websocket("/ws", dependencies=[Depends(RateLimit("1/minute"))])
    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()

    async def open_one(extensions: dict[str, Any]) -> list[Message]:
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "websocket.connect"}

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {
            "type": "websocket",
            "path": "/ws",
            "query_string": b"",
            "headers": [],
            "client": ("192.0.2.1", 1),
            "extensions": extensions,
        }
        await app(scope, receive, send)
        return sent

    async with open_store(str(server.url)) as store:
        install(app, RateLimiter(store, None))
        accepted, _ = await open_one({})
        assert accepted["type"] == "websocket.accept"
        assert [name for name, _ in accepted["headers"]] == [b"ratelimit-policy", b"ratelimit"]
        start, _ = await open_one({"websocket.http.response": {}})
        assert (start["type"], start["status"]) == ("websocket.http.response.start", 429)
        (closed,) = await open_one({})
        assert (closed["type"], closed["code"]) == ("websocket.close", 1013)


class TestDocument:
    """The OpenAPI document."""

    def document(self, **options: Any) -> dict[str, Any]:
        app = FastAPI()
        install(app, **options)
        router = APIRouter(dependencies=[Depends(RateLimit("1/minute"))])
        own: dict[int | str, dict[str, Any]] = {
            429: {"description": "Too fast", "headers": {"X-Own": {"description": "own"}}}
        }

        @router.get("/inherited")
        async def inherited() -> None: ...

        @app.post("/nested", status_code=201)
        async def nested(_: Annotated[None, Depends(_charged)]) -> None: ...

        @app.get("/own", dependencies=[Depends(RateLimit("1/minute"))], responses=own)
        async def own_words() -> None: ...

        @app.get("/hidden", dependencies=[Depends(RateLimit("1/minute"))], include_in_schema=False)
        async def hidden() -> None: ...

        @app.get("/free")
        async def free() -> None: ...

        app.include_router(router, prefix="/v1")
        assert app.openapi() == app.openapi()
        return app.openapi()

    def test_limited_routes_show_their_429(self) -> None:
        paths = self.document()["paths"]
        for operation, status in (
            (paths["/v1/inherited"]["get"], "200"),
            (paths["/nested"]["post"], "201"),
        ):
            responses = operation["responses"]
            assert [*responses["429"]["headers"]] == [
                "Retry-After",
                "RateLimit-Policy",
                "RateLimit",
            ]
            schema = responses["429"]["content"]["application/problem+json"]["schema"]
            assert {"policy", "retry_after", "violated-policies"} <= schema["properties"].keys()
            denied = responses["403"]["content"]["application/problem+json"]["schema"]
            assert denied["properties"]["type"] == {"const": "urn:sark:problem:limit-denied"}
            assert [*responses[status]["headers"]] == ["RateLimit-Policy", "RateLimit"]
            assert operation.get("parameters", []) == []
        assert "429" not in paths["/free"]["get"]["responses"]
        assert "/hidden" not in paths

    def test_the_authors_words_stay(self) -> None:
        refused = self.document()["paths"]["/own"]["get"]["responses"]["429"]
        assert refused["description"] == "Too fast"
        assert {"X-Own", "Retry-After", "RateLimit"} <= refused["headers"].keys()

    def test_it_shows_what_is_sent(self) -> None:
        fields = LimitFields("refused", "epoch")
        responses = self.document(fields=fields)["paths"]["/v1/inherited"]["get"]["responses"]
        assert responses["200"]["headers"] == {}
        assert "X-RateLimit-Reset" in responses["429"]["headers"]

    def test_what_limits_go_by_is_documented_like_any_dependency(self) -> None:
        app = FastAPI()
        install(app)
        app.get("/", dependencies=[Depends(RateLimit("1/minute", by=user))])(lambda: "")
        (parameter,) = app.openapi()["paths"]["/"]["get"]["parameters"]
        assert (parameter["name"], parameter["in"]) == ("x-user", "header")


async def _charged(_: Annotated[None, Depends(RateLimit("1/minute"))]) -> None: ...


async def test_what_is_missing_is_told(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()
    app.get("/", dependencies=[Depends(RateLimit("1/minute"))])(user)
    async with served(app) as url, http_client(url) as http:
        assert await statuses(http) == [500]
    assert "install(app) was not called" in caplog.text
    caplog.clear()
    app = FastAPI()
    install(app)
    app.get("/", dependencies=[Depends(RateLimit("1/minute"))])(user)
    async with served(app) as url, http_client(url) as http:
        assert await statuses(http) == [500]
    assert "set app.state.sark" in caplog.text


@pytest.mark.parametrize(
    ("limits", "options"),
    [
        (["often"], {}),
        (["1/minute", "5/60 seconds"], {}),
        (["1/minute"], {"name": "a name"}),
        (["1/minute"], {"cost": 2}),
        (["1/minute"], {"tier": "gold"}),
        (["1/minute"], {"kind": "user:x"}),
        ([], {"shadow": True}),
        (["1/minute"], {"action": "x:read"}),
        (["1/minute"], {"by": "user"}),
    ],
)
def test_mistakes_show_at_once(limits: list[str], options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="got "):
        RateLimit(*limits, **options)
    with pytest.raises(ValueError, match="got the name"):
        install(FastAPI(), namespace="My App")
