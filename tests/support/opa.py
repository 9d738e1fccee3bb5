"""OPA for tests: its documented REST API on a real HTTP server, decided by OPA's own engine.

The engine is OPA itself, bound to Python; what the server adds is the data API's envelope,
provenance, health, errors, and switches for everything that can go wrong on the way. Source of the
shapes: OPA's REST API reference and ``v1/server/server.go``. With ``OPA_BIN`` (a program) or
``OPA_URL`` (an address; that OPA may hold no policies but the tests' own) the contract is also
tried on a live OPA.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import re
import ssl
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import unquote

import aiohttp
import pytest
from aiohttp import web

from tests.support.polling import until
from tests.support.servers import free_port

EXAMPLES = Path(__file__).parents[2] / "examples"
POLICIES = EXAMPLES / "policies"
BUNDLE = "sark"
READY_SECONDS = 20.0
LIVE_URL = "LIVE_OPA_URL"

# One policy for each shape of answer; the name is the policy's.
CONTRACT = {
    "full": '{"allow": true, "reason": "é\\n\\"", "ttl": 7.9, "cacheable": true, "more": [1]}',
    "bare": '{"allow": false}',
    "echo": '{"allow": false, "reason": json.marshal(input)}',
    "brief": '{"allow": true, "ttl": 0.5}',
    "nothing": '{"allow": true} if input.action == "never"',
    "number": "7",
    "nil": "null",
    "words": '{"allow": "yes"}',
    "silent": '{"reason": "no allow"}',
    "conflict": "input.action\n\ndecision := input.user_id",
}

Fault = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


class Seen(NamedTuple):
    """A request as the server got it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


def contract_modules() -> dict[str, str]:
    """The Rego modules of the contract, by file name."""
    head = "package sark.{}\n\nimport rego.v1\n\ndecision := {}\n"
    return {f"{name}.rego": head.format(name, rule) for name, rule in CONTRACT.items()}


def sample_modules() -> dict[str, str]:
    """The Rego modules of the sample policies, by file name."""
    files = sorted(POLICIES.rglob("*.rego"))
    return {file.name: file.read_text() for file in files if not file.name.endswith("_test.rego")}


def sample_data() -> dict[str, Any]:
    """The data of the sample policies, by dotted path."""
    files = POLICIES.rglob("data.json")
    return {
        ".".join(file.relative_to(POLICIES).parent.parts): json.loads(file.read_text())
        for file in sorted(files)
    }


@cache
def reference_engine() -> Any:
    """OPA's engine with the sample policies and the contract's; one for the process.

    Its threads don't survive a fork, so a forked child must not use it.
    """
    engine = opa_bindings().OpaEngine()
    for name, text in {**sample_modules(), **contract_modules()}.items():
        engine.add_policy(name, text)
    for path, data in sample_data().items():
        engine.add_data(data, path)
    return engine


def opa_bindings() -> Any:
    """Import the binding, which ships no types; without it, tests are skipped except in CI."""
    if os.environ.get("CI"):
        return importlib.import_module("opa_bindings")
    return pytest.importorskip("opa_bindings")


class OpaServer:
    """A server that answers as OPA does.

    Args:
        socket_path: Listen on this unix socket instead of a free port.
        tls: Serve with this context.
        token: Refuse requests without this bearer token.

    Attributes:
        bundles: Revision of each activated bundle.
        is_activated: Whether the bundles are; before that every document is undefined.
        faults: What befalls the next requests, one each.
        always: What befalls every request once ``faults`` is used up.
        decision_ids: Ids of the answers so far when decision logs are on; None when they are off.
        seen: All requests.
        connections: How many connections brought them.
        most_under_way: Most requests that were under way at the same time.
    """

    def __init__(
        self,
        *,
        socket_path: Path | None = None,
        tls: ssl.SSLContext | None = None,
        token: str | None = None,
    ) -> None:
        self.bundles = {BUNDLE: "r1"}
        self.is_activated = True
        self.faults: list[Fault] = []
        self.always: Fault | None = None
        self.decision_ids: list[str] | None = None
        self.seen: list[Seen] = []
        self.most_under_way = 0
        self.port = 0
        self._under_way = 0
        self._transports: set[asyncio.BaseTransport | None] = set()
        self._socket_path, self._tls, self._token = socket_path, tls, token
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        if self._socket_path is not None:
            return f"unix://{self._socket_path}"
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        return len(self._transports)

    @property
    def open_connections(self) -> int:
        """How many of them are open, as the server sees it."""
        return sum(not transport.is_closing() for transport in self._transports if transport)

    async def start(self) -> None:
        """Listen, at the same place as before if it was stopped."""
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await self._runner.setup()
        site: web.BaseSite
        if self._socket_path is not None:
            site = web.UnixSite(self._runner, str(self._socket_path))
        else:
            site = web.TCPSite(
                self._runner, "127.0.0.1", self.port, ssl_context=self._tls, reuse_address=True
            )
        await site.start()
        if self._socket_path is None:
            self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Close every connection and listen no more."""
        if self._runner is not None:
            for transport in self._transports:
                if isinstance(transport, asyncio.Transport):
                    transport.abort()
            await self._runner.cleanup()
            self._runner = None

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self._transports.add(request.transport)
        self._under_way += 1
        self.most_under_way = max(self.most_under_way, self._under_way)
        try:
            body = await request.read()
            self.seen.append(Seen(request.method, request.path_qs, dict(request.headers), body))
            fault = self.faults.pop(0) if self.faults else self.always
            broken = await fault(request) if fault is not None else None
            return broken if broken is not None else self._answer(request, body)
        finally:
            self._under_way -= 1

    def _answer(self, request: web.Request, body: bytes) -> web.Response:
        if self._token and request.headers.get("Authorization") != f"Bearer {self._token}":
            message = "request rejected by administrative policy"
            return error(401, "unauthorized", message)
        if request.path == "/health":
            return self._health(request)
        if not request.path.startswith("/v1/data/"):
            return web.Response(status=404, text="404 page not found\n")
        try:
            # The wrapper is read as OPA reads it: what stands outside ``input`` is not input.
            given = json.loads(body)["input"]
        except (ValueError, KeyError, TypeError):
            return error(400, "invalid_parameter", f"body contains malformed input: {body!r}")
        return self._data(request, given)

    def _health(self, request: web.Request) -> web.Response:
        if "bundles" in request.query and not self.is_activated:
            return answer(500, {"error": "one or more bundles are not activated"})
        return answer(200, {})

    def _data(self, request: web.Request, given: object) -> web.Response:
        document: dict[str, object] = {}
        names = [unquote(name) for name in request.rel_url.raw_path.split("/")[3:]]
        query = "result = data" + "".join(f"[{json.dumps(name)}]" for name in names)
        try:
            if self.is_activated:
                # No row when it is undefined.
                document.update(*reference_engine().eval_query(query, given))
        except opa_bindings().OpaError as failed:
            return evaluation_error(str(failed))
        if self.decision_ids is not None:
            self.decision_ids.append(str(uuid.uuid4()))
            document["decision_id"] = self.decision_ids[-1]
        if request.query.get("provenance") == "true":
            document["provenance"] = self._provenance()
        return answer(200, document)

    def _provenance(self) -> dict[str, object]:
        build = {"version": "1.9.0", "build_commit": "c", "build_timestamp": "t"}
        named = self.bundles if self.is_activated else {}
        bundles = {name: {"revision": revision} for name, revision in named.items()}
        return {**({"bundles": bundles} if bundles else {}), **build, "build_hostname": "h"}


def answer(status: int, document: object) -> web.Response:
    return web.json_response(document, status=status)


def error(status: int, code: str, message: str) -> web.Response:
    return answer(status, {"code": code, "message": message})


def evaluation_error(text: str) -> web.Response:
    """OPA's answer when an evaluation fails, with the engine's account of it."""
    found = re.search(r"(?P<file>[\w.]+):(?P<row>\d+): (?P<code>\w+): (?P<message>.+)", text)
    assert found, text
    location = {"file": found["file"], "row": int(found["row"]), "col": 1}
    detail = {"code": found["code"], "message": found["message"], "location": location}
    message = "error(s) occurred while evaluating query"
    return answer(500, {"code": "internal_error", "message": message, "errors": [detail]})


# Faults


def slow(seconds: float) -> Fault:
    """Answer late."""

    async def fault(request: web.Request) -> None:
        await asyncio.sleep(seconds)

    return fault


def status(code: int, body: str = "") -> Fault:
    """Answer with a status."""

    async def fault(request: web.Request) -> web.StreamResponse:
        return web.Response(status=code, text=body, headers={"Location": "/elsewhere"})

    return fault


def says(body: bytes, **headers: str) -> Fault:
    """Answer 200 with other bytes."""

    async def fault(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, headers=headers)

    return fault


async def cut(request: web.Request) -> web.StreamResponse:
    """Close the connection instead of answering."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def cut_midway(request: web.Request) -> web.StreamResponse:
    """Close the connection in the middle of the answer."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"result":')
    assert request.transport is not None
    request.transport.abort()
    return response


def flood(size: int) -> Fault:
    """Answer with a body of unannounced size."""

    async def fault(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with suppress(ConnectionError):
            for _ in range(size // 2**16):
                await response.write(b" " * 2**16)
        return response

    return fault


# A live OPA


def set_live_opa_aside(environ: MutableMapping[str, str]) -> None:
    """Keep ``OPA_URL`` for the tests of a live OPA: to all others it is a setting, to be unset.

    It stays in the environment under another name, where the workers of a test run find it.
    """
    if url := environ.pop("OPA_URL", None):
        environ[LIVE_URL] = url


def is_live_opa_given() -> bool:
    return bool(os.environ.get("OPA_BIN") or os.environ.get(LIVE_URL))


@asynccontextmanager
async def live_opa() -> AsyncIterator[str]:
    """The address of a live OPA that holds the sample and the contract's policies."""
    if url := os.environ.get(LIVE_URL):
        await _push(url)
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="sark-opa-") as folder:
        _write_bundle(Path(folder))
        address = f"127.0.0.1:{free_port()}"
        command = [os.environ["OPA_BIN"], "run", "--server", "--addr", address, "--bundle", folder]
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
        try:
            url = f"http://{address}"
            await until(lambda: _answers(url), within=READY_SECONDS, what="OPA answers")
            yield url
        finally:
            process.terminate()
            await process.wait()


def _write_bundle(root: Path) -> None:
    for name, text in {**sample_modules(), **contract_modules()}.items():
        (root / name).write_text(text)
    for path, data in sample_data().items():
        folder = root.joinpath(*path.split("."))
        folder.mkdir(parents=True)
        (folder / "data.json").write_text(json.dumps(data))
    (root / ".manifest").write_text(json.dumps({"revision": "r1", "roots": ["sark", "org"]}))


async def _answers(url: str) -> bool:
    with suppress(aiohttp.ClientError):
        async with aiohttp.ClientSession() as session, session.get(f"{url}/health") as response:
            return response.status == 200
    return False


async def _push(url: str) -> None:
    async with aiohttp.ClientSession(url, raise_for_status=True) as session:
        async with session.get("/v1/policies") as response:
            held = {policy["id"] for policy in (await response.json())["result"]}
        foreign = sorted(held - sample_modules().keys() - contract_modules().keys())
        # It may be the one that decides for somebody.
        assert not foreign, f"the OPA at OPA_URL holds {foreign}; the tests need one of their own"
        for path, data in sample_data().items():
            async with session.put(f"/v1/data/{path.replace('.', '/')}", json=data):
                pass
        for name, text in {**sample_modules(), **contract_modules()}.items():
            async with session.put(f"/v1/policies/{name}", data=text):
                pass
