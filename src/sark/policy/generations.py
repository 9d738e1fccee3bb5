"""Generations: how cached decisions are revoked without being searched for.

Three tokens on the ``state`` server stand for everything, for one policy and for one user. A
decision is stamped with the tokens that were current *before* it was evaluated, and is valid only
while all of them still are. Writing one new token therefore revokes every decision of its scope in
constant time, including those that are being evaluated at this moment and will be stored later.

A token is ``<microseconds>-<nonce>``: the server's clock, or one more than the previous token if
that is later, and a text that is never used twice. So tokens are ordered and never repeat, and a
token that was lost (eviction, a restart that forgot the last writes) is replaced by a new one,
which costs misses and never revives a decision. The server's ``run_id`` is part of the stamp for
the same reason.
"""

from __future__ import annotations

import os
from base64 import urlsafe_b64encode
from binascii import b2a_base64
from collections.abc import Sequence
from hashlib import blake2b
from itertools import count

from sark.events import GenerationChanged
from sark.policy.freshness import Freshness, FreshnessSigner, Scope
from sark.store import Store, load_script

__all__ = ["LOOKUP_FRAGMENTS", "TOKEN_FRAGMENTS", "Generations", "fresh_nonce", "stamp_of"]

# 60 bits. A stamp is compared with one other only: that of the same question at another time, when
# something has changed since and the decision has to be made anew. Ten thousand such look-ups a
# second take one for the other once in four million years. Nor can a match be sought: nobody
# chooses a token, and each try is a revocation.
STAMP_CHARACTERS = 10
STAMP_BYTES = 8

TOKEN_FRAGMENTS: tuple[tuple[str, str], ...] = (
    ("sark.store", "clock.lua"),
    ("sark.policy", "token.lua"),
)
LOOKUP_FRAGMENTS = (*TOKEN_FRAGMENTS, ("sark.policy", "lookup.lua"))
_INVALIDATE = load_script("policy.invalidate", *TOKEN_FRAGMENTS, ("sark.policy", "invalidate.lua"))

_process = urlsafe_b64encode(os.urandom(9)).decode()
_numbers = count()


def _new_process_nonce() -> None:
    global _process  # noqa: PLW0603 - a forked child must not repeat its parent's nonces
    _process = urlsafe_b64encode(os.urandom(9)).decode()


os.register_at_fork(after_in_child=_new_process_nonce)


def fresh_nonce() -> str:
    """Make a text that no call of any process ever made before: 72 random bits and a counter."""
    return f"{_process}{next(_numbers):x}"


def stamp_of(tokens: Sequence[bytes], run_id: str, revision: str) -> str:
    """Digest what a decision's validity hangs on, in ten characters.

    Args:
        tokens: The generation tokens of everything, the policy and the user.
        run_id: The run of the ``state`` server that holds them.
        revision: Of the policies that decide.
    """
    text = b"\n".join((tokens[0], tokens[1], tokens[2], run_id.encode(), revision.encode()))
    digest = blake2b(text, digest_size=STAMP_BYTES).digest()
    return b2a_base64(digest)[:STAMP_CHARACTERS].decode()


class Generations:
    """Writes new generation tokens.

    Args:
        store: Where they live.
        signer: Signs the freshness tokens that are returned.
        user_token_ttl: Seconds that a user's token lives unless renewed; at least twice the
            longest life of a decision, so that it outlives every decision stamped with it.
        replicas: How many replicas have to acknowledge an invalidation.
    """

    def __init__(
        self, store: Store, *, signer: FreshnessSigner, user_token_ttl: int, replicas: int = 0
    ) -> None:
        self._store = store
        self._signer = signer
        self._user_ttl_ms = user_token_ttl * 1000
        self._replicas = replicas

    @property
    def user_token_ttl_ms(self) -> int:
        """Life of a user's token in milliseconds."""
        return self._user_ttl_ms

    async def invalidate_all(self) -> str:
        """Revoke every cached decision.

        Returns:
            A freshness token: a request that carries it is answered by later decisions only.

        Raises:
            StoreError: It may not have happened, or may not survive a failover; ask again.
        """
        return await self._write("all", "", self._store.keys.policy_generation, 0)

    async def invalidate_policy(self, policy: str) -> str:
        """Revoke every cached decision of one policy; as ``invalidate_all``."""
        return await self._write("policy", policy, self._store.keys.policy_version(policy), 0)

    async def invalidate_user(self, user_id: str) -> str:
        """Revoke every cached decision about one user; as ``invalidate_all``."""
        key = self._store.keys.policy_user_version(user_id)
        return await self._write("user", user_id, key, self._user_ttl_ms)

    async def _write(self, scope: Scope, name: str, key: str, ttl_ms: int) -> str:
        # Idempotent in effect: a second token written by a repeat revokes the same decisions.
        reply = await self._store.state.run_replicated(
            _INVALIDATE,
            [key],
            [fresh_nonce(), ttl_ms, self._store.keys.policy_changes, scope],
            replicas=self._replicas,
            idempotent=True,
        )
        self._store.hub.emit(GenerationChanged(scope, name))
        token: bytes = reply.value
        return self._signer.sign(Freshness(scope, name, token.decode()))
