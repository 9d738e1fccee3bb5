"""Access tokens: JSON Web Tokens of our own and of trusted outside issuers (RFC 7519, 9068, 8725).

A token is checked in the order of cost: length, form, header, key, signature, claims. What was
verified is remembered under the SHA-256 of the token until it expires, so that a client which uses
one token for many requests costs one signature. Revocation is not remembered here: the server is
asked each time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple, Protocol

from cachebox import LRUCache

from sark.errors import InvalidRequestError, TokenError
from sark.sessions.claims import AccessClaims
from sark.sessions.tokens.compact import CompactToken, read_compact
from sark.sessions.tokens.issuer_keys import IssuerKeys
from sark.sessions.tokens.keys import ACCEPTED_ALGORITHMS, TOKEN_TYPE, FoundKey
from sark.sessions.tokens.profile import Expectation, read_claims, write_claims
from sark.sessions.tokens.signing_keys import SigningKeys

__all__ = ["MAX_TOKEN_BYTES", "JwtAccessTokens"]

MAX_TOKEN_BYTES = 8192
"""Servers of HTTP refuse header lines beyond 8 KB as well."""

MAX_KID_BYTES = 256
OUR_HEADER = frozenset({"alg", "kid", "typ"})
# Extensions that must be understood (RFC 7515 section 4.1.11), or that change what is signed.
REFUSED_HEADER = frozenset({"crit", "b64", "zip", "enc"})


class _KeySource(Protocol):
    version: int

    async def find(self, kid: str) -> FoundKey: ...


class _Issuer(NamedTuple):
    keys: _KeySource
    expectation: Expectation
    types: frozenset[str]


class _Verified(NamedTuple):
    """What a token said, as long as the time has not come and its issuer's keys are the same."""

    claims: AccessClaims
    until: float
    keys: _KeySource
    version: int


class JwtAccessTokens:
    """Signs our access tokens, and verifies ours and those of trusted issuers.

    Args:
        keys: Our keys.
        issuer: Our name in ``iss``.
        audience: Whom our tokens are for (``aud``).
        leeway: Seconds by which clocks may differ, for every time in a token.
        outside: Keys of the trusted issuers.
        outside_audience: Whom their tokens must be for.
        outside_types: Values of ``typ`` that are accepted in their headers.
        outside_user_prefix: Put before their users' ids, with ``{issuer}`` for the issuer.
        outside_tier_claim: The claim in which they name a user's plan; empty to take none.
        cache_entries: Most verified tokens that are remembered; 0 remembers none.
        clock: Unix time.

    Attributes:
        hits: Verifications answered from memory.
        misses: All others.
    """

    def __init__(
        self,
        keys: SigningKeys,
        *,
        issuer: str,
        audience: str,
        leeway: int,
        outside: Sequence[IssuerKeys] = (),
        outside_audience: str = "",
        outside_types: Sequence[str] = (TOKEN_TYPE,),
        outside_user_prefix: str = "{issuer}|",
        outside_tier_claim: str = "",
        cache_entries: int = 10_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._leeway = leeway
        self._clock = clock
        self._cache_entries = cache_entries
        # To cachebox, 0 is no bound at all.
        self._verified: LRUCache[bytes, _Verified] = LRUCache(max(1, cache_entries))
        types = frozenset(map(_media_type, outside_types))
        self._issuers: dict[str, _Issuer] = {}
        for source in outside:
            theirs = Expectation(
                source.issuer,
                outside_audience or audience,
                leeway,
                outside=True,
                user_prefix=outside_user_prefix.replace("{issuer}", source.issuer),
                tier_claim=outside_tier_claim,
            )
            self._issuers[source.issuer] = _Issuer(source, theirs, types)
        # Last, so that nobody outside can take our name.
        ours = Expectation(issuer, audience, leeway)
        self._issuers[issuer] = _Issuer(keys, ours, frozenset({TOKEN_TYPE}))
        self.hits = 0
        self.misses = 0

    @property
    def algorithm(self) -> str:
        """What new tokens are signed with."""
        return self._keys.active.algorithm

    def issue(self, claims: AccessClaims) -> str:
        """Sign a token.

        Args:
            claims: What it says; the issuer must be ours.

        Returns:
            The token; the same for equal claims as long as the same key is active, so that an
            answer that was lost can be given again.

        Raises:
            InvalidRequestError: The issuer is another one.
        """
        if claims.issuer != self._issuer or claims.outside:
            raise InvalidRequestError("issuer", "only tokens of our own can be signed")
        return self._keys.active.sign(write_claims(claims, self._audience))

    async def verify(self, token: str) -> AccessClaims:
        """Read a token.

        Raises:
            TokenError: It isn't accepted: ``too_long``, ``malformed``, ``header``, ``type``,
                ``algorithm``, ``unknown_key``, ``signature``, ``issuer``, ``audience``,
                ``expired``, ``not_yet_valid`` or ``claims``.
            IssuerUnavailableError: Its issuer must be asked for keys, and doesn't answer.
        """
        if len(token) > MAX_TOKEN_BYTES:
            raise TokenError("too_long", f"the token is longer than {MAX_TOKEN_BYTES} characters")
        if not token.isascii():
            raise TokenError("malformed", "the token has characters outside ASCII")
        digest = sha256(token.encode()).digest()
        known = self._verified.get(digest)
        if (
            known is not None
            and known.version == known.keys.version
            and self._clock() < known.until
        ):
            self.hits += 1
            return known.claims
        self.misses += 1
        return await self._verify(token, digest)

    def jwks(self) -> bytes:
        """Write our public keys down as a JSON Web Key Set (RFC 7517)."""
        return self._keys.jwks()

    async def _verify(self, text: str, digest: bytes) -> AccessClaims:
        token = read_compact(text)
        issuer = self._issuer_of(token)
        kid = _check_header(token.header, issuer)
        key, until = await issuer.keys.find(kid)
        if token.header["alg"] != key.algorithm:
            raise TokenError("algorithm", "alg is not the algorithm of the key")
        if not key.verifies(token.signed, token.signature):
            raise TokenError("signature", "the signature does not match")
        claims = read_claims(token.payload, issuer.expectation, self._clock())
        if self._cache_entries:
            until = min(until, claims.expires_at + self._leeway)
            version = issuer.keys.version
            self._verified.insert(digest, _Verified(claims, until, issuer.keys, version))
        return claims

    def _issuer_of(self, token: CompactToken) -> _Issuer:
        """Choose whose keys must have signed; the claim itself is verified with the signature."""
        name = token.payload.get("iss")
        issuer = self._issuers.get(name) if isinstance(name, str) else None
        if issuer is None:
            raise TokenError("issuer", "iss names no issuer that is trusted here")
        return issuer


def _check_header(header: Mapping[str, Any], issuer: _Issuer) -> str:
    """Check what a token says about its signature; returns the kid.

    Keys that a token brings along (``jwk``, ``x5c``) or points to (``jku``, ``x5u``) are never
    looked at; ours have no such members, and outside ones may, for other readers.
    """
    if REFUSED_HEADER & header.keys():
        raise TokenError("header", "the header asks for an extension that is not supported")
    kind, algorithm, kid = (header.get(name) for name in ("typ", "alg", "kid"))
    if not isinstance(algorithm, str) or algorithm not in ACCEPTED_ALGORITHMS:
        raise TokenError("algorithm", "alg is not an accepted algorithm")
    if not isinstance(kind, str) or _media_type(kind) not in issuer.types:
        raise TokenError("type", "typ is not that of an access token")
    if not isinstance(kid, str) or not 0 < len(kid) <= MAX_KID_BYTES:
        raise TokenError("unknown_key", "kid names no key of the issuer")
    if not issuer.expectation.outside and header.keys() != OUR_HEADER:
        raise TokenError("header", "the header has members that our tokens don't have")
    return kid


def _media_type(name: str) -> str:
    """Spell a media type the short way, in lower case (RFC 7515 section 4.1.9)."""
    return name.lower().removeprefix("application/")
