"""What sessions do over HTTP while the audit queue is full."""

from __future__ import annotations

from pathlib import Path

from tests.support.http_sessions import SERVICE_TOKEN, TRUSTED, ask, bearer, call, issue
from tests.support.polling import until
from tests.support.service import QUEUE, SarkService, http_client


async def test_a_full_queue_refuses_logins_and_lets_sessions_end(tmp_path: Path) -> None:
    def recorded() -> set[tuple[str, str]]:
        return {(event["resource"], event["reason"]) for event in service.events()}

    with SarkService(
        tmp_path,
        SARK_SERVICE_TOKEN=SERVICE_TOKEN,
        SARK_SIEM_MAX_EVENTS=3,
        SARK_REFRESH_GRACE=0,
        SARK_SPILL_MAX_BYTES=0,
    ) as service:
        async with http_client(service) as http:
            leaver, managed, copied = [await issue(http, name) for name in ("a", "b", "c")]
            body = {"user_id": "d"}
            status, problem = await call(http, "POST", "/v1/sessions", TRUSTED, body)
            assert (status, problem["type"][-16:]) == (503, "audit-queue-full")

            mine = bearer(leaver["access_token"])
            status, problem = await call(http, "DELETE", "/v1/sessions/current", mine)
            assert (status, problem["ended"]) == (503, [leaver["session_id"]])
            assert problem["freshness"].startswith("user.")
            path = "/v1/users/b/sessions"
            status, problem = await call(http, "DELETE", path, service.admin)
            assert (status, problem["ended"]) == (503, [managed["session_id"]])
            body = {"refresh_token": copied["refresh_token"]}
            statuses = [
                (await call(http, "POST", "/v1/sessions/refresh", None, body))[0] for _ in range(2)
            ]
            assert statuses == [200, 503]

            async with http.get("/metrics") as response:
                assert "sark_audit_events_waiting 3.0" in await response.text()
            with service.valkey() as client:
                client.delete(QUEUE, "siem:account")
            for grant in (leaver, managed, copied):
                expected = (
                    (grant["session_id"], "session:refresh_reused")
                    if grant is copied
                    else (grant["session_id"], f"by {'user' if grant is leaver else 'admin'}")
                )
                await until(lambda e=expected: e in recorded(), within=10, what=str(expected))
            with service.valkey() as client:
                client.delete(QUEUE, "siem:account")
            for grant in (leaver, managed, copied):
                assert (await ask(http, grant["access_token"]))[1]["code"] == "ended"
