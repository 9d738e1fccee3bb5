"""Tokens of outside issuers, whose keys come from a real HTTP server that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web

from sark.errors import IssuerUnavailableError, TokenError
from sark.events import Event, Hub, IssuerKeysFetched, IssuerUnavailable
from sark.sessions.tokens import IssuerKeys, JwksClient, JwtAccessTokens, issuer_keys, jwks_client
from sark.sessions.tokens.keys import SigningKey
from sark.sessions.tokens.profile import outside_session_id
from tests.support.polling import until
from tests.support.tokens import (
    NOW,
    Clock,
    Issuer,
    access_tokens,
    cancel,
    claims,
    parts,
    sign,
    signing_keys,
)

NAME = "https://idp.example/"
STALE = 600


class Verifier:
    """What trusts an issuer, with a clock of its own."""

    def __init__(self, source: IssuerKeys, tokens: JwtAccessTokens, clock: Clock) -> None:
        self.source = source
        self.tokens = tokens
        self.clock = clock
        self.events: list[Event] = []

    async def code(self, token: str) -> str:
        """The code with which a token is refused."""
        with pytest.raises(TokenError) as caught:
            await self.tokens.verify(token)
        return caught.value.code


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let requests wait for the issuer, however busy the machine is."""
    monkeypatch.setattr(issuer_keys, "WAIT_SECONDS", 30.0)


@asynccontextmanager
async def verifier(issuer: Issuer, directory: Path, **options: Any) -> AsyncIterator[Verifier]:
    """Trust an issuer, without asking it in the background."""
    clock, hub = Clock(), Hub()
    async with JwksClient() as client:
        fetch = partial(client.fetch, issuer.name, issuer.url)
        source = IssuerKeys(issuer.name, fetch, refresh=300, stale=STALE, hub=hub, clock=clock)
        tokens = access_tokens(signing_keys(directory), source, clock=clock, **options)
        made = Verifier(source, tokens, clock)
        hub.on(IssuerKeysFetched, made.events.append)
        hub.on(IssuerUnavailable, made.events.append)
        yield made


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    issuer = Issuer(NAME)
    async with issuer.serve():
        yield issuer


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let unknown keys be asked for as often as they come."""
    monkeypatch.setattr(issuer_keys, "UNKNOWN_KEY_SECONDS", 0.0)


async def test_an_outside_token_is_read(issuer: Issuer, tmp_path: Path) -> None:
    async with verifier(issuer, tmp_path) as trusting:
        token = issuer.token(tier="gold")
        for _ in range(3):
            read = await trusting.tokens.verify(token)
        assert read == claims(
            issuer=NAME,
            user_id="outsider",
            session_id=outside_session_id(NAME, "outsider", sid="s1"),
            jti="j1",
            client_id="portal",
            outside=True,
        )
        assert issuer.asked == 1
        assert (trusting.tokens.hits, trusting.tokens.misses) == (2, 1)
        ours = trusting.tokens.issue(claims())
        assert not (await trusting.tokens.verify(ours)).outside


@pytest.mark.parametrize("algorithm", ["RS256", "EdDSA"])
async def test_keys_that_name_no_algorithm_have_their_usual_one(
    algorithm: str, tmp_path: Path
) -> None:
    issuer = Issuer(NAME, "RS256" if algorithm == "RS256" else "EdDSA")
    issuer.published = [{k: v for k, v in issuer.key.public_jwk.items() if k not in ("alg", "use")}]
    async with issuer.serve(), verifier(issuer, tmp_path) as trusting:
        assert (await trusting.tokens.verify(issuer.token())).user_id == "outsider"


async def test_other_algorithms_of_public_keys(issuer: Issuer, tmp_path: Path) -> None:
    import jwt
    from cryptography.hazmat.primitives.asymmetric import ec
    from jwt.algorithms import ECAlgorithm

    _, payload = parts(issuer.token())
    private = ec.generate_private_key(ec.SECP256R1())
    public = ECAlgorithm.to_jwk(private.public_key(), as_dict=True)
    issuer.published.append({**public, "kid": "ec"})
    issuer.published.append({**issuer.key.public_jwk, "kid": "pss", "alg": "PS256"})
    signed = [
        jwt.encode(payload, private, "ES256", headers={"kid": "ec", "typ": "at+jwt"}),
        jwt.encode(payload, issuer.key._private, "PS256", headers={"kid": "pss", "typ": "at+jwt"}),
    ]
    async with verifier(issuer, tmp_path) as trusting:
        for token in signed:
            assert (await trusting.tokens.verify(token)).outside
        wrong = jwt.encode(
            payload, issuer.key._private, "PS256", headers={"kid": issuer.key.kid, "typ": "at+jwt"}
        )
        assert await trusting.code(wrong) == "algorithm"


@pytest.mark.parametrize(
    ("header", "changes", "code"),
    [
        ({}, {"aud": "other"}, "audience"),
        ({}, {"iss": "https://idp.example"}, "issuer"),
        ({}, {"iss": "https://evil.example/"}, "issuer"),
        ({}, {"sub": None}, "claims"),
        ({}, {"jti": None}, "claims"),
        ({}, {"exp": None}, "claims"),
        ({}, {"iat": None}, "claims"),
        ({}, {"sid": ""}, "claims"),
        ({}, {"exp": NOW + 0.5}, "claims"),
        ({}, {"exp": NOW - 100, "iat": NOW - 1000}, "expired"),
        ({}, {"nbf": NOW + 100}, "not_yet_valid"),
        ({"typ": "JWT"}, {}, "type"),
        ({"typ": "id+jwt"}, {}, "type"),
        ({"crit": ["exp"]}, {}, "header"),
        ({"alg": "none"}, {}, "algorithm"),
        ({"alg": "HS256"}, {}, "algorithm"),
        ({"alg": "RS512"}, {}, "algorithm"),
        ({"kid": "other"}, {}, "unknown_key"),
        ({"kid": None}, {}, "unknown_key"),
    ],
)
async def test_outside_tokens_that_are_refused(
    issuer: Issuer, tmp_path: Path, header: dict[str, Any], changes: dict[str, Any], code: str
) -> None:
    async with verifier(issuer, tmp_path) as trusting:
        assert await trusting.code(issuer.token(header, **changes)) == code


async def test_an_outside_key_signs_for_its_issuer_only(issuer: Issuer, tmp_path: Path) -> None:
    async with verifier(issuer, tmp_path) as trusting:
        await trusting.tokens.verify(issuer.token())
        assert await trusting.code(issuer.token(iss="sark")) == "unknown_key"
        header, payload = parts(trusting.tokens.issue(claims()))
        forged = sign(issuer.key, {**header, "alg": "RS256"}, payload)
        assert await trusting.code(forged) == "algorithm"


async def test_nobody_outside_can_take_our_name(tmp_path: Path) -> None:
    issuer = Issuer("sark")
    async with issuer.serve(), verifier(issuer, tmp_path) as trusting:
        assert await trusting.code(issuer.token()) == "unknown_key"
        assert await trusting.tokens.verify(trusting.tokens.issue(claims())) == claims()


async def test_keys_that_an_outside_token_brings_are_not_looked_at(
    issuer: Issuer, tmp_path: Path
) -> None:
    own = SigningKey.generate("RS256")
    evil = Issuer(NAME)
    evil.published = [own.public_jwk]
    async with evil.serve(), verifier(issuer, tmp_path) as trusting:
        brought = {"jwk": own.public_jwk, "jku": evil.url, "x5u": evil.url, "x5c": ["MIIB"]}
        assert (await trusting.tokens.verify(issuer.token(brought))).outside
        _, payload = parts(issuer.token())
        header = {"alg": "RS256", "typ": "at+jwt", **brought}
        assert await trusting.code(sign(own, {**header, "kid": own.kid}, payload)) == "unknown_key"
        swapped = sign(own, {**header, "kid": issuer.key.kid}, payload)
        assert await trusting.code(swapped) == "signature"
        assert evil.asked == 0


async def test_the_session_of_an_outside_token(issuer: Issuer, tmp_path: Path) -> None:
    async with verifier(issuer, tmp_path) as trusting:

        async def session(**changes: Any) -> str:
            return (await trusting.tokens.verify(issuer.token(**changes))).session_id

        assert await session(jti="a") == await session(jti="b"), "one session, several tokens"
        assert await session(sid="a") != await session(sid="b")
        assert await session(sub="a") != await session(sub="b")
        assert await session(sid=None, jti="a") != await session(sid=None, jti="b")
        assert await session(sid=None, jti="a") == await session(sid=None, jti="a", tier="x")
        assert await session(sid="a") != await session(sid=None, jti="a")
        assert outside_session_id("i", "u", sid="s") != outside_session_id("other", "u", sid="s")


async def test_other_types_of_token_when_allowed(issuer: Issuer, tmp_path: Path) -> None:
    async with verifier(issuer, tmp_path, outside_types=("JWT", "at+jwt")) as trusting:
        for kind in ("JWT", "jwt", "application/at+jwt", "AT+JWT"):
            assert (await trusting.tokens.verify(issuer.token({"typ": kind}))).outside
        assert await trusting.code(issuer.token({"typ": "id+jwt"})) == "type"
        header, payload = parts(trusting.tokens.issue(claims()))
        ours = sign(trusting.tokens._keys.active, {**header, "typ": "JWT"}, payload)
        assert await trusting.code(ours) == "type"


async def test_another_audience_for_outside_tokens(issuer: Issuer, tmp_path: Path) -> None:
    async with verifier(issuer, tmp_path, outside_audience="api://gateway") as trusting:
        assert (await trusting.tokens.verify(issuer.token(aud=["api://gateway", "x"]))).outside
        assert await trusting.code(issuer.token(aud="sark")) == "audience"


async def test_the_client_of_providers_of_old(issuer: Issuer, tmp_path: Path) -> None:
    async with verifier(issuer, tmp_path) as trusting:
        named = issuer.token(client_id=None, azp="portal-1")
        assert (await trusting.tokens.verify(named)).client_id == "portal-1"
        assert (await trusting.tokens.verify(issuer.token(client_id=None))).client_id == ""


# Rotation at the issuer


async def test_a_new_key_is_asked_for_when_a_token_names_it(
    issuer: Issuer, tmp_path: Path, no_pause: None
) -> None:
    async with verifier(issuer, tmp_path) as trusting:
        old = issuer.token()
        await trusting.tokens.verify(old)
        issuer.rotate()
        assert (await trusting.tokens.verify(issuer.token())).outside
        assert issuer.asked == 2
        # The issuer has withdrawn the old key, so what it verified is forgotten.
        assert await trusting.code(old) == "unknown_key"


async def test_another_key_of_the_same_name(issuer: Issuer, tmp_path: Path, no_pause: None) -> None:
    async with verifier(issuer, tmp_path) as trusting:
        old = issuer.token()
        await trusting.tokens.verify(old)
        kid = issuer.key.kid
        issuer.rotate()
        issuer.published = [{**issuer.key.public_jwk, "kid": kid}]
        await trusting.source._ask()
        assert await trusting.code(old) == "signature"
        assert (await trusting.tokens.verify(issuer.token({"kid": kid}))).outside


async def test_unknown_keys_do_not_flood_the_issuer(issuer: Issuer, tmp_path: Path) -> None:
    async with verifier(issuer, tmp_path) as trusting:
        await trusting.tokens.verify(issuer.token())
        for number in range(50):
            assert await trusting.code(issuer.token({"kid": f"made-up-{number}"})) == "unknown_key"
        assert issuer.asked == 1


async def test_many_requests_ask_once(issuer: Issuer, tmp_path: Path) -> None:
    async with verifier(issuer, tmp_path) as trusting:
        tokens = [issuer.token(jti=f"j{number}") for number in range(100)]
        read = await asyncio.gather(*map(trusting.tokens.verify, tokens))
        assert len(read) == 100
        assert issuer.asked == 1


async def test_the_keys_are_fetched_ahead(issuer: Issuer, tmp_path: Path) -> None:
    async with verifier(issuer, tmp_path) as trusting:
        trusting.source._refresh = 0.01
        running = asyncio.create_task(trusting.source.run())
        try:
            await until(lambda: issuer.asked >= 3, within=10, what="keys are fetched again")
            issuer.rotate()
            asked = issuer.asked
            await until(lambda: issuer.asked > asked + 1, within=10, what="the new key is known")
            trusting.source._next_question = time.monotonic() + 1000
            assert (await trusting.tokens.verify(issuer.token())).outside
        finally:
            await cancel(running)
        changes = [e.changed for e in trusting.events if isinstance(e, IssuerKeysFetched)]
        assert changes.count(True) == 2


# Issuers that misbehave


async def slow(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    return web.json_response({})


async def dripping(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.01)
    return response


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        while True:
            await response.write(b" " * 65_536)
    return response


async def huge(_: web.Request) -> web.StreamResponse:
    return web.Response(body=b" " * 1_000_000)


async def redirecting(request: web.Request) -> web.StreamResponse:
    raise web.HTTPFound(str(request.url))


async def failing(_: web.Request) -> web.StreamResponse:
    return web.Response(status=503)


async def missing(_: web.Request) -> web.StreamResponse:
    return web.Response(status=404, text="secret page")


async def closing(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


def saying(body: bytes) -> Any:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body)

    return answer


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (slow, "no complete answer"),
        (dripping, "no complete answer"),
        (endless, "more than 262144 bytes"),
        (huge, "more than 262144 bytes"),
        (redirecting, "302; redirects are not followed"),
        (failing, "it answers 503"),
        (missing, "it answers 404"),
        (closing, "closed the connection"),
        (saying(b""), "not strict JSON"),
        (saying(b"<html>secret page</html>"), "not strict JSON"),
        (saying(b"\xff"), "not strict JSON"),
        (saying(b"[]"), "not an object"),
        (saying(b"{}"), "not a set"),
        (saying(b'{"keys": {}}'), "not a set"),
        (saying(b'{"keys": []}'), "without a key"),
        (saying(b'{"keys": [1, null, "a", [], {}]}'), "without a key"),
        (saying(b'{"keys": [{"kty": "oct", "kid": "a", "k": "c2VjcmV0"}]}'), "without a key"),
        (saying(b'{"keys": [], "keys": []}'), "not strict JSON"),
        (saying(b'{"keys": [' + b"{}," * 200 + b"{}]}"), "not a set of at most 100"),
        (saying(b"[" * 100_000), "not strict JSON"),
    ],
)
async def test_a_bad_answer_is_no_answer(
    issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Any, reason: str
) -> None:
    monkeypatch.setattr(jwks_client, "FETCH_SECONDS", 0.2)
    issuer.answer = answer
    async with verifier(issuer, tmp_path) as trusting:
        with pytest.raises(IssuerUnavailableError, match=reason) as caught:
            await trusting.tokens.verify(issuer.token())
        assert caught.value.issuer == NAME
        assert issuer.url not in str(caught.value)
        assert "secret" not in str(caught.value)
        assert [type(event) for event in trusting.events] == [IssuerUnavailable]
        # Tokens of our own don't depend on anybody.
        assert await trusting.tokens.verify(trusting.tokens.issue(claims())) == claims()


async def test_the_certificate_of_an_issuer_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, trusted = trustme.CA(), tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(trusted))

    async def fetched(name: str, authorities: Path | None) -> int:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(tls)
        if authorities is not None:
            monkeypatch.setenv("SSL_CERT_FILE", str(authorities))
        issuer = Issuer(NAME)
        async with issuer.serve(tls=tls), JwksClient() as client:
            return len(await client.fetch(NAME, issuer.url))

    for name, authorities in (("127.0.0.1", None), ("other.example", trusted)):
        with pytest.raises(IssuerUnavailableError, match="certificate is refused"):
            await fetched(name, authorities)
    assert await fetched("127.0.0.1", trusted) == 1


async def test_an_issuer_that_is_down_and_comes_back(tmp_path: Path, no_pause: None) -> None:
    issuer = Issuer(NAME)
    async with issuer.serve():
        port = int(issuer.url.rpartition(":")[2].partition("/")[0])
    async with verifier(issuer, tmp_path) as trusting:
        with pytest.raises(IssuerUnavailableError, match="refused"):
            await trusting.tokens.verify(issuer.token())
        async with issuer.serve(port):
            assert (await trusting.tokens.verify(issuer.token())).outside


async def test_known_keys_stay_in_use_for_a_while(
    issuer: Issuer, tmp_path: Path, no_pause: None
) -> None:
    async with verifier(issuer, tmp_path) as trusting:
        token = issuer.token(exp=NOW + 10 * STALE)
        await trusting.tokens.verify(token)
        issuer.answer = failing
        trusting.clock.now += STALE - 1
        assert (await trusting.tokens.verify(issuer.token(jti="j2"))).outside
        assert (await trusting.tokens.verify(token)).outside
        with pytest.raises(IssuerUnavailableError, match="503"):
            await trusting.tokens.verify(issuer.token({"kid": "new"}))
        # An unknown key may be one that the issuer has since made: nobody can tell.
        trusting.clock.now += 1
        for each in (token, issuer.token(jti="j3", exp=NOW + 10 * STALE)):
            with pytest.raises(IssuerUnavailableError, match="503"):
                await trusting.tokens.verify(each)
        issuer.answer = None
        assert (await trusting.tokens.verify(token)).outside


async def test_requests_do_not_wait_for_a_slow_issuer_one_after_the_other(
    issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuer_keys, "WAIT_SECONDS", 0.05)
    monkeypatch.setattr(jwks_client, "FETCH_SECONDS", 0.3)
    issuer.answer = slow
    async with verifier(issuer, tmp_path) as trusting:
        with pytest.raises(IssuerUnavailableError, match="not answered yet"):
            await trusting.tokens.verify(issuer.token())
        await until(lambda: trusting.events, within=10, what="the question is given up")
        started = time.perf_counter()
        for _ in range(20):
            with pytest.raises(IssuerUnavailableError, match="no complete answer"):
                await trusting.tokens.verify(issuer.token())
        assert time.perf_counter() - started < 0.05 * 20
        assert issuer.asked == 1


async def test_the_end_does_not_wait_for_a_slow_issuer(issuer: Issuer, tmp_path: Path) -> None:
    issuer.answer = slow
    async with verifier(issuer, tmp_path) as trusting:
        running = asyncio.create_task(trusting.source.run())
        await until(lambda: issuer.asked, within=10, what="the issuer is asked")
        await cancel(running)
        assert trusting.source._asking is None
        assert trusting.events == []


async def test_usable_keys_are_taken_from_among_others(issuer: Issuer, tmp_path: Path) -> None:
    good = issuer.key.public_jwk
    other = SigningKey.generate("RS256").public_jwk
    issuer.published = [
        {"kty": "oct", "kid": "o", "k": "c2VjcmV0"},
        {**other, "kid": "enc", "use": "enc"},
        {"kty": "AKP", "kid": "pq", "alg": "ML-DSA-44"},
        good,
        {**other, "kid": good["kid"]},
    ]
    async with verifier(issuer, tmp_path) as trusting:
        assert (await trusting.tokens.verify(issuer.token())).outside
        assert trusting.events == [IssuerKeysFetched(NAME, 1, changed=True)]


async def test_users_of_an_issuer_are_no_local_users(issuer: Issuer, tmp_path: Path) -> None:
    async with verifier(issuer, tmp_path, outside_user_prefix="{issuer}|") as trusting:
        read = await trusting.tokens.verify(issuer.token())
        assert read.user_id == f"{NAME}|outsider"
        most = 256 - len(f"{NAME}|")
        assert len((await trusting.tokens.verify(issuer.token(sub="x" * most))).user_id) == 256
        with pytest.raises(TokenError, match="sub: expected text"):
            await trusting.tokens.verify(issuer.token(sub="x" * (most + 1)))


async def test_a_plan_counts_only_in_the_claim_that_is_named(
    issuer: Issuer, tmp_path: Path
) -> None:
    async with verifier(issuer, tmp_path) as trusting:
        for tier in ("gold", 7, None, ["x"], "t" * 65):
            assert (await trusting.tokens.verify(issuer.token(tier=tier))).tier == ""
    async with verifier(issuer, tmp_path, outside_tier_claim="plan") as trusting:
        token = issuer.token(tier="gold", plan="silver")
        assert (await trusting.tokens.verify(token)).tier == "silver"
        assert (await trusting.tokens.verify(issuer.token(tier="gold"))).tier == ""
        with pytest.raises(TokenError, match="plan: expected text"):
            await trusting.tokens.verify(issuer.token(plan=7))


async def test_tokens_of_another_sark_may_name_no_client(issuer: Issuer, tmp_path: Path) -> None:
    async with verifier(issuer, tmp_path) as trusting:
        assert (await trusting.tokens.verify(issuer.token(client_id=""))).client_id == ""


async def test_a_token_without_sid_is_a_session_of_its_own(issuer: Issuer, tmp_path: Path) -> None:
    async with verifier(issuer, tmp_path) as trusting:
        assert not (await trusting.tokens.verify(issuer.token())).single
        assert (await trusting.tokens.verify(issuer.token(sid=None))).single
