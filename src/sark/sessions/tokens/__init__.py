"""Access tokens as signed JWTs: keys and their rotation, strict verification, outside issuers."""

from sark.sessions.tokens.issuer_keys import IssuerKeys
from sark.sessions.tokens.jwks_client import JwksClient
from sark.sessions.tokens.jwt_tokens import JwtAccessTokens
from sark.sessions.tokens.key_file import KeyFile
from sark.sessions.tokens.key_set import JWKS_MAX_AGE_SECONDS, KeySet
from sark.sessions.tokens.signing_keys import SigningKeys, retention_of

__all__ = [
    "JWKS_MAX_AGE_SECONDS",
    "IssuerKeys",
    "JwksClient",
    "JwtAccessTokens",
    "KeyFile",
    "KeySet",
    "SigningKeys",
    "retention_of",
]
