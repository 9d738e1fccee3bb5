"""Access tokens under attack: nothing but what was signed here is accepted."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sark.errors import InvalidRequestError, TokenError
from sark.sessions.claims import AccessClaims, AccessTokens
from sark.sessions.tokens import JwtAccessTokens, SigningKeys
from sark.sessions.tokens.jwt_tokens import MAX_TOKEN_BYTES
from sark.sessions.tokens.keys import Algorithm, SigningKey
from tests.support.tokens import (
    LEEWAY,
    NOW,
    TTL,
    Clock,
    access_tokens,
    claims,
    decode,
    encode,
    parts,
    sign,
    signing_keys,
)

Payload = dict[str, Any]


@pytest.fixture(scope="module", params=["EdDSA", "RS256"])
def keys(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SigningKeys:
    algorithm: Algorithm = request.param
    return signing_keys(tmp_path_factory.mktemp(algorithm), algorithm=algorithm)


@pytest.fixture
def tokens(keys: SigningKeys) -> JwtAccessTokens:
    return access_tokens(keys)


async def refused(tokens: JwtAccessTokens, token: str) -> str:
    """Check that a token is refused, twice, and without a word of it; returns the code."""
    codes = []
    for _ in range(2):
        with pytest.raises(TokenError) as caught:
            await tokens.verify(token)
        said = f"{caught.value} {caught.value.args} {caught.value.reason}"
        assert all(len(part) < 8 or part not in said for part in token.split("."))
        codes.append(caught.value.code)
    assert codes[0] == codes[1]
    return codes[0]


# What is accepted

bounded = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=64)
spans = st.tuples(st.integers(NOW - 10**6, NOW + LEEWAY), st.integers(1, 10**9))


names = st.fixed_dictionaries(
    {"user_id": bounded, "session_id": bounded, "jti": bounded},
    optional={"client_id": st.just("") | bounded, "tier": st.text("aé☃", min_size=1, max_size=21)},
)


@given(names, spans)
async def test_what_is_signed_is_what_is_read(named: dict[str, str], span: tuple[int, int]) -> None:
    issued, life = span
    written = claims(
        **named,
        issued_at=issued,
        expires_at=max(issued + life, NOW + 1),
    )
    tokens = access_tokens(SHARED)
    token = tokens.issue(written)
    assert token == tokens.issue(written)
    assert await tokens.verify(token) == written
    assert await tokens.verify(token) == written
    assert (tokens.hits, tokens.misses) == (1, 1)


async def test_the_claims_are_those_of_rfc_9068(tokens: JwtAccessTokens, keys: SigningKeys) -> None:
    header, payload = parts(tokens.issue(claims(tier="gold")))
    assert header == {"alg": keys.active.algorithm, "kid": keys.active.kid, "typ": "at+jwt"}
    assert payload == {
        "iss": "sark",
        "aud": "sark",
        "sub": "user-0001",
        "sid": "session-1",
        "jti": "token-1",
        "iat": NOW,
        "exp": NOW + TTL,
        "client_id": "web",
        "tier": "gold",
    }
    assert "tier" not in parts(tokens.issue(claims()))[1]


async def test_a_token_that_another_library_reads(tokens: JwtAccessTokens) -> None:
    import jwt

    token = tokens.issue(claims(user_id="用户-☃"))
    keys = jwt.PyJWKSet.from_json(tokens.jwks().decode())
    key = keys[jwt.get_unverified_header(token)["kid"]]
    read = jwt.decode(
        token, key, audience="sark", options={"verify_exp": False, "verify_iat": False}
    )
    assert read["sub"] == "用户-☃"


def test_it_is_what_sessions_ask_for(tokens: JwtAccessTokens) -> None:
    asked_for: AccessTokens = tokens
    assert asked_for.issue(claims()) == tokens.issue(claims())


def test_only_tokens_of_our_own_are_signed(tokens: JwtAccessTokens) -> None:
    for foreign in (claims(issuer="other"), claims(outside=True)):
        with pytest.raises(InvalidRequestError):
            tokens.issue(foreign)


# Form


@pytest.mark.parametrize(
    "change",
    [
        lambda _: "",
        lambda _: "..",
        lambda token: token + ".",
        lambda token: token + "..",
        lambda token: "." + token,
        lambda token: token.rpartition(".")[0],
        lambda token: token.rpartition(".")[0] + ".",
        lambda token: token + "=",
        lambda token: token + " ",
        lambda token: " " + token,
        lambda token: token + "\n",
        lambda token: token.replace(".", ". ", 1),
        lambda token: token.replace(".", "\t.", 1),
        lambda token: token + "\0",
        lambda token: token + "é",
        lambda token: token + "\ud800",
        lambda token: "Bearer " + token,
        lambda token: token[:10] + "+" + token[11:],
        lambda token: token[:10] + "/" + token[11:],
        lambda token: token[:10] + "%" + token[11:],
        lambda token: token[:10] + token[11:],
        lambda token: token + "AAAA.AAAA",
    ],
)
async def test_other_spellings_are_refused(
    tokens: JwtAccessTokens, change: Callable[[str], str]
) -> None:
    token = change(tokens.issue(claims()))
    assert await refused(tokens, token) in {"malformed", "signature", "algorithm"}


async def test_a_huge_token_is_refused_before_it_is_looked_at(tokens: JwtAccessTokens) -> None:
    valid = tokens.issue(claims())
    huge = valid + "A" * 1_000_000
    started = time.perf_counter()
    for _ in range(100):
        with pytest.raises(TokenError) as caught:
            await tokens.verify(huge)
    assert (time.perf_counter() - started) / 100 < 0.001
    assert caught.value.code == "too_long"
    assert await refused(tokens, "A" * (MAX_TOKEN_BYTES + 1)) == "too_long"
    assert await refused(tokens, "A" * MAX_TOKEN_BYTES) == "malformed"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"7",
        b"{",
        b"{}x",
        b"\xef\xbb\xbf{}",
        b"\xff\xfe{\x00}\x00",
        b'{"sub": "\xff"}',
        b'{"exp": NaN}',
        b'{"exp": Infinity}',
        b'{"exp": 1' + b"0" * 5000 + b"}",
        b"[" * 5000,
        b'{"a":' * 900,
        b"{'iss': 'sark'}",
    ],
)
@pytest.mark.parametrize("part", [0, 1])
async def test_parts_that_are_no_object(
    tokens: JwtAccessTokens, keys: SigningKeys, payload: bytes, part: int
) -> None:
    header, good = (json.dumps(p).encode() for p in parts(tokens.issue(claims())))
    token = sign(keys.active, *((payload, good) if part == 0 else (header, payload)))
    assert await refused(tokens, token) == "malformed"


@pytest.mark.parametrize(
    "name", ["iss", "aud", "sub", "sid", "jti", "iat", "exp", "client_id", "x"]
)
async def test_a_claim_that_stands_in_it_twice(
    tokens: JwtAccessTokens, keys: SigningKeys, name: str
) -> None:
    header, payload = parts(tokens.issue(claims()))
    value = json.dumps(payload.get(name, {"deep": 1}))
    again = json.dumps(payload)[:-1] + f', "{name}": {value}, "{name}": {value}}}'
    assert await refused(tokens, sign(keys.active, header, again.encode())) == "malformed"


async def test_a_nested_member_that_stands_twice(
    tokens: JwtAccessTokens, keys: SigningKeys
) -> None:
    header, payload = parts(tokens.issue(claims()))
    nested = json.dumps(payload)[:-1] + ', "act": {"sub": "a", "sub": "b"}}'
    assert await refused(tokens, sign(keys.active, header, nested.encode())) == "malformed"


# Header


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"alg": "none"}, "algorithm"),
        ({"alg": "None"}, "algorithm"),
        ({"alg": "nOnE"}, "algorithm"),
        ({"alg": ""}, "algorithm"),
        ({"alg": None}, "algorithm"),
        ({"alg": ["EdDSA"]}, "algorithm"),
        ({"alg": "HS256"}, "algorithm"),
        ({"alg": "HS512"}, "algorithm"),
        ({"alg": "ES256"}, "algorithm"),
        ({"alg": "PS256"}, "algorithm"),
        ({"alg": "RS512"}, "algorithm"),
        ({"alg": "eddsa"}, "algorithm"),
        ({"typ": "JWT"}, "type"),
        ({"typ": "id+jwt"}, "type"),
        ({"typ": "dpop+jwt"}, "type"),
        ({"typ": "logout+jwt"}, "type"),
        ({"typ": None}, "type"),
        ({"typ": 1}, "type"),
        ({"typ": ["at+jwt"]}, "type"),
        ({"crit": ["exp"]}, "header"),
        ({"crit": []}, "header"),
        ({"b64": False}, "header"),
        ({"zip": "DEF"}, "header"),
        ({"cty": "JWT"}, "header"),
        ({"jku": "https://evil.example/jwks.json"}, "header"),
        ({"x5u": "https://evil.example/cert.pem"}, "header"),
        ({"x5c": ["MIIB"]}, "header"),
        ({"kid": "nobody"}, "unknown_key"),
        ({"kid": ""}, "unknown_key"),
        ({"kid": None}, "unknown_key"),
        ({"kid": 0}, "unknown_key"),
        ({"kid": ["a"]}, "unknown_key"),
        ({"kid": {"a": 1}}, "unknown_key"),
        ({"kid": "../../../../dev/null"}, "unknown_key"),
        ({"kid": "/etc/passwd"}, "unknown_key"),
        ({"kid": "signing-keys.json"}, "unknown_key"),
        ({"kid": "x' UNION SELECT 'key"}, "unknown_key"),
        ({"kid": "a\0b"}, "unknown_key"),
        ({"kid": "k" * 257}, "unknown_key"),
        ({"kid": "k" * 4000}, "unknown_key"),
    ],
)
async def test_headers_signed_by_the_right_key(
    tokens: JwtAccessTokens, keys: SigningKeys, change: Payload, code: str
) -> None:
    header, payload = parts(tokens.issue(claims()))
    assert await refused(tokens, sign(keys.active, {**header, **change}, payload)) == code


@pytest.mark.parametrize("name", ["alg", "typ", "kid"])
async def test_headers_with_less(tokens: JwtAccessTokens, keys: SigningKeys, name: str) -> None:
    header, payload = parts(tokens.issue(claims()))
    del header[name]
    expected = {"alg": "algorithm", "typ": "type", "kid": "unknown_key"}[name]
    assert await refused(tokens, sign(keys.active, header, payload)) == expected


async def test_a_kid_in_other_letters_is_another_one(
    tokens: JwtAccessTokens, keys: SigningKeys
) -> None:
    header, payload = parts(tokens.issue(claims()))
    for kid in (header["kid"].swapcase(), header["kid"] + " ", header["kid"][:-1]):
        token = sign(keys.active, {**header, "kid": kid}, payload)
        assert await refused(tokens, token) == "unknown_key"


async def test_none_without_a_signature(tokens: JwtAccessTokens) -> None:
    header, payload = parts(tokens.issue(claims()))
    unsigned = f"{encode(json.dumps({**header, 'alg': 'none'}).encode())}."
    unsigned += f"{encode(json.dumps(payload).encode())}."
    assert await refused(tokens, unsigned) == "algorithm"


async def test_hmac_with_the_public_key_as_its_secret(
    tokens: JwtAccessTokens, keys: SigningKeys
) -> None:
    header, payload = parts(tokens.issue(claims()))
    secrets = [
        keys.active.verification.material,
        json.dumps(keys.active.public_jwk).encode(),
        tokens.jwks(),
        decode(keys.active.public_jwk.get("x") or keys.active.public_jwk["n"]),
        b"",
    ]
    for algorithm in ("HS256", header["alg"]):
        signed = ".".join(
            encode(json.dumps(part).encode()) for part in ({**header, "alg": algorithm}, payload)
        )
        for secret in secrets:
            mac = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
            expected = "algorithm" if algorithm == "HS256" else "signature"
            assert await refused(tokens, f"{signed}.{encode(mac)}") == expected


async def test_a_key_that_the_token_brings_along(
    tokens: JwtAccessTokens, keys: SigningKeys
) -> None:
    header, payload = parts(tokens.issue(claims()))
    own = SigningKey.generate("EdDSA")
    brought = {**header, "alg": "EdDSA", "jwk": own.public_jwk}
    assert await refused(tokens, sign(own, brought, payload)) == "header"
    assert await refused(tokens, sign(own, {**brought, "kid": own.kid}, payload)) == "header"


async def test_the_algorithm_of_another_of_our_keys(tmp_path: Path) -> None:
    keys = signing_keys(tmp_path, algorithm="EdDSA")
    tokens = access_tokens(keys)
    header, payload = parts(tokens.issue(claims()))
    rsa = SigningKey.generate("RS256")
    token = sign(rsa, {**header, "alg": "RS256"}, payload)
    assert await refused(tokens, token) == "algorithm"


async def test_a_token_inside_a_token(tokens: JwtAccessTokens, keys: SigningKeys) -> None:
    inner = tokens.issue(claims())
    header, _ = parts(inner)
    assert await refused(tokens, sign(keys.active, header, inner.encode())) == "malformed"
    assert await refused(tokens, sign(keys.active, header, {"jwt": inner})) == "issuer"


# Payload and signature


@pytest.mark.parametrize("name", ["sub", "sid", "jti", "exp", "tier"])
async def test_an_altered_payload(tokens: JwtAccessTokens, name: str) -> None:
    header, payload, signature = tokens.issue(claims()).split(".")
    altered = json.loads(decode(payload))
    altered[name] = altered["exp"] + 10**6 if name == "exp" else "admin"
    token = f"{header}.{encode(json.dumps(altered).encode())}.{signature}"
    assert await refused(tokens, token) == "signature"


async def test_the_signature_of_another_token(tokens: JwtAccessTokens) -> None:
    first, second = tokens.issue(claims()), tokens.issue(claims(user_id="admin"))
    mixed = f"{second.rpartition('.')[0]}.{first.rpartition('.')[2]}"
    assert await refused(tokens, mixed) == "signature"


async def test_signatures_of_other_lengths(tokens: JwtAccessTokens) -> None:
    signed, _, signature = tokens.issue(claims()).rpartition(".")
    made = decode(signature)
    for other in (b"", made[:-1], made + b"\0", made * 2, bytes(len(made)), b"\0" + made):
        assert await refused(tokens, f"{signed}.{encode(other)}") == "signature"


async def test_a_token_of_another_deployment(tokens: JwtAccessTokens, tmp_path: Path) -> None:
    foreign = access_tokens(signing_keys(tmp_path)).issue(claims())
    assert await refused(tokens, foreign) == "unknown_key"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"iss": "other"}, "issuer"),
        ({"iss": "SARK"}, "issuer"),
        ({"iss": ""}, "issuer"),
        ({"iss": None}, "issuer"),
        ({"iss": ["sark"]}, "issuer"),
        ({"iss": {"sark": 1}}, "issuer"),
        ({"aud": "other"}, "audience"),
        ({"aud": ""}, "audience"),
        ({"aud": None}, "audience"),
        ({"aud": []}, "audience"),
        ({"aud": ["other"]}, "audience"),
        ({"aud": {"sark": 1}}, "audience"),
        ({"aud": "sark other"}, "audience"),
        ({"exp": NOW - LEEWAY, "iat": NOW - TTL}, "expired"),
        ({"exp": 1, "iat": 0}, "expired"),
        ({"iat": NOW + LEEWAY + 1}, "not_yet_valid"),
        ({"nbf": NOW + LEEWAY + 1}, "not_yet_valid"),
        ({"exp": NOW - 1}, "claims"),
        ({"exp": -1}, "claims"),
        ({"exp": -(10**30)}, "claims"),
        ({"exp": 10**30}, "claims"),
        ({"exp": 253_402_300_800}, "claims"),
        ({"exp": True}, "claims"),
        ({"exp": None}, "claims"),
        ({"exp": str(NOW + TTL)}, "claims"),
        ({"exp": NOW + 0.5}, "claims"),
        ({"exp": 1e300}, "claims"),
        ({"exp": [NOW + TTL]}, "claims"),
        ({"iat": False}, "claims"),
        ({"iat": -1}, "claims"),
        ({"iat": float(NOW)}, "claims"),
        ({"iat": None}, "claims"),
        ({"nbf": True}, "claims"),
        ({"nbf": None}, "claims"),
        ({"nbf": "0"}, "claims"),
        ({"sub": ""}, "claims"),
        ({"sub": None}, "claims"),
        ({"sub": 1}, "claims"),
        ({"sub": True}, "claims"),
        ({"sub": ["user-0001"]}, "claims"),
        ({"sub": {"id": 1}}, "claims"),
        ({"sub": "u" * 257}, "claims"),
        ({"sub": "é" * 129}, "claims"),
        ({"sub": "\ud800"}, "claims"),
        ({"sid": ""}, "claims"),
        ({"sid": 7}, "claims"),
        ({"sid": "s" * 257}, "claims"),
        ({"jti": ""}, "claims"),
        ({"jti": None}, "claims"),
        ({"jti": "j" * 257}, "claims"),
        ({"client_id": 1}, "claims"),
        ({"client_id": "c" * 257}, "claims"),
        ({"tier": ""}, "claims"),
        ({"tier": None}, "claims"),
        ({"tier": 3}, "claims"),
        ({"tier": "t" * 65}, "claims"),
    ],
)
async def test_claims_signed_by_the_right_key(
    tokens: JwtAccessTokens, keys: SigningKeys, change: Payload, code: str
) -> None:
    header, payload = parts(tokens.issue(claims()))
    assert await refused(tokens, sign(keys.active, header, {**payload, **change})) == code


@pytest.mark.parametrize("name", ["iss", "aud", "sub", "sid", "jti", "iat", "exp", "client_id"])
async def test_claims_that_are_missing(
    tokens: JwtAccessTokens, keys: SigningKeys, name: str
) -> None:
    header, payload = parts(tokens.issue(claims()))
    del payload[name]
    expected = {"iss": "issuer", "aud": "audience"}.get(name, "claims")
    assert await refused(tokens, sign(keys.active, header, payload)) == expected


async def test_the_audience_may_be_one_of_several(
    tokens: JwtAccessTokens, keys: SigningKeys
) -> None:
    header, payload = parts(tokens.issue(claims()))
    token = sign(keys.active, header, {**payload, "aud": ["other", "sark"]})
    assert (await tokens.verify(token)).user_id == "user-0001"


async def test_the_last_token_of_a_session_may_have_no_life_left(keys: SigningKeys) -> None:
    ended = claims(expires_at=NOW)
    tokens = access_tokens(keys)
    assert await tokens.verify(tokens.issue(ended)) == ended
    strict = access_tokens(keys, leeway=0)
    assert await refused(strict, strict.issue(ended)) == "expired"


@pytest.mark.parametrize("seconds", [0, 1, LEEWAY, 300])
async def test_the_leeway_is_exact(keys: SigningKeys, seconds: int) -> None:
    clock = Clock()
    tokens = access_tokens(keys, clock=clock, leeway=seconds)
    token = tokens.issue(claims())
    for moment, code in (
        (NOW - seconds - 1, "not_yet_valid"),
        (NOW - seconds, ""),
        (NOW + TTL + seconds - 1, ""),
        (NOW + TTL + seconds, "expired"),
    ):
        clock.now = moment
        if code:
            assert await refused(tokens, token) == code
        else:
            assert await tokens.verify(token) == claims()


# Any change at all


@pytest.fixture(scope="module", autouse=True)
def shared(tmp_path_factory: pytest.TempPathFactory) -> None:
    global SHARED, VALID  # noqa: PLW0603 - hypothesis takes no fixtures of other scopes
    SHARED = signing_keys(tmp_path_factory.mktemp("shared"))
    VALID = access_tokens(SHARED).issue(claims())


SHARED: SigningKeys
VALID: str
LETTERS = "ABCXYZabcxyz0189-_.=+/ \n\0é"


@given(st.data())
async def test_any_change_of_a_token_is_refused(data: st.DataObject) -> None:
    tokens = access_tokens(SHARED)
    position = data.draw(st.integers(0, len(VALID)), label="position")
    kind = data.draw(st.sampled_from(["replace", "insert", "delete", "swap", "cut"]), label="kind")
    letter = data.draw(st.sampled_from(LETTERS), label="letter")
    rest = VALID[position:]
    changed = (
        VALID[:position]
        + {
            "replace": letter + rest[1:],
            "insert": letter + rest,
            "delete": rest[1:],
            "swap": rest[1:2] + rest[:1] + rest[2:],
            "cut": "",
        }[kind]
    )
    if changed != VALID:
        await refused(tokens, changed)
        assert await tokens.verify(VALID) == claims()


async def test_each_letter_of_a_token_counts() -> None:
    tokens = access_tokens(SHARED)
    for position, letter in enumerate(VALID):
        other = "B" if letter == "A" else "A"
        await refused(tokens, VALID[:position] + other + VALID[position + 1 :])


@given(
    st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode(errors="replace"))
)
async def test_no_bytes_are_an_unexpected_error(noise: bytes) -> None:
    tokens = access_tokens(SHARED)
    header = json.dumps({"alg": "EdDSA", "kid": SHARED.active.kid, "typ": "at+jwt"}).encode()
    await refused(tokens, noise.decode("latin-1"))
    await refused(tokens, f"{encode(noise)}.{encode(noise)}.{encode(noise)}")
    await refused(tokens, sign(SHARED.active, header, noise))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
NAMES = ["iss", "aud", "sub", "sid", "jti", "iat", "exp", "nbf", "client_id", "tier"]


@given(st.dictionaries(st.sampled_from(NAMES), json_values, min_size=1))
async def test_signed_claims_of_any_kind_are_refused_or_well_typed(changes: Payload) -> None:
    tokens = access_tokens(SHARED)
    header, payload = parts(VALID)
    token = sign(SHARED.active, header, {**payload, **changes})
    try:
        read = await tokens.verify(token)
    except TokenError:
        return
    assert msgspec.convert(msgspec.structs.asdict(read), AccessClaims, strict=True) == read
    assert read.expires_at + LEEWAY > NOW >= read.issued_at - LEEWAY
    assert all(0 < len(text.encode()) <= 256 for text in (read.user_id, read.session_id, read.jti))


# Memory of what was verified


async def test_a_remembered_token_still_expires(keys: SigningKeys) -> None:
    clock = Clock()
    tokens = access_tokens(keys, clock=clock)
    token = tokens.issue(claims())
    await tokens.verify(token)
    clock.now = NOW + TTL + LEEWAY - 0.001
    await tokens.verify(token)
    assert (tokens.hits, tokens.misses) == (1, 1)
    clock.now = NOW + TTL + LEEWAY
    assert await refused(tokens, token) == "expired"


async def test_the_memory_is_bounded_and_holds_no_token(keys: SigningKeys) -> None:
    tokens = access_tokens(keys, cache_entries=10)
    issued = [tokens.issue(claims(jti=f"token-{n}")) for n in range(50)]
    for token in issued:
        await tokens.verify(token)
    assert len(tokens._verified) == 10
    held = repr(dict(tokens._verified.items()))
    assert not any(token.rpartition(".")[2] in held for token in issued)


async def test_without_memory_each_token_is_verified(keys: SigningKeys) -> None:
    tokens = access_tokens(keys, cache_entries=0)
    token = tokens.issue(claims())
    for _ in range(3):
        await tokens.verify(token)
    assert (tokens.hits, tokens.misses) == (0, 3)
