"""The example application, run as its first lines say, on a server of the tests."""

from __future__ import annotations

import aiohttp
import pytest

from tests.support.applications import served_by_processes
from tests.support.servers import ValkeyServer
from tests.support.service import http_client


@pytest.mark.heavy
async def test_it_does_what_it_shows(server: ValkeyServer) -> None:
    where = {"VALKEY_URL": str(server.url), "SARK_TRUSTED_PROXY_COUNT": "1"}
    with served_by_processes("examples.limited_app:app", 1, **where) as (url,):
        async with http_client(url) as http:
            assert await statuses(http, "GET", "/reports", 4) == [200, 200, 200, 429]
            other = {"X-Forwarded-For": "127.0.0.1, 192.0.2.1"}
            assert await statuses(http, "GET", "/reports", 1, **other) == [200]
            # Two in a second and five at once: within a second, a sixth or seventh at most.
            ann = await statuses(http, "POST", "/reports", 12, **{"X-User": "ann"})
            assert ann[:5] == [200] * 5
            assert 429 in ann
            assert await statuses(http, "POST", "/reports", 1, **{"X-User": "bob"}) == [200]
            assert await statuses(http, "GET", "/search?q=a", 11) == [*[200] * 10, 429]
            mails = []
            for _ in range(3):
                async with http.post("/reports/mail?to=ann") as response:
                    mails.append((await response.json())["status"])
            assert mails == ["sent", "sent", "later"]
            async with http.get("/openapi.json") as response:
                paths = (await response.json())["paths"]
    limited = [
        (path, method)
        for path, operations in paths.items()
        for method, operation in operations.items()
        if "429" in operation["responses"]
    ]
    assert limited == [("/reports", "get"), ("/reports", "post"), ("/search", "get")]


async def statuses(
    http: aiohttp.ClientSession, method: str, path: str, times: int, **headers: str
) -> list[int]:
    found = []
    for _ in range(times):
        async with http.request(method, path, headers=headers) as response:
            await response.read()
            found.append(response.status)
    return found
