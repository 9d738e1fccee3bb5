"""Keys that sign and verify tokens, and their public form as JSON Web Keys (RFC 7517, 7518, 8037).

A key has exactly one algorithm, and a token is verified by its key's algorithm or not at all: the
token's own word on that is only compared. That rules out ``none`` and the use of a public key as
the secret of an HMAC (RFC 8725 sections 2.1 and 3.1). The mathematics are PyJWT's on top of
``cryptography``.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Literal, NamedTuple

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import (
    RSAPrivateKey,
    RSAPublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import Algorithm as Mathematics
from jwt.algorithms import OKPAlgorithm, RSAAlgorithm, get_default_algorithms

from sark.sessions.tokens.compact import encode_base64url

__all__ = [
    "ACCEPTED_ALGORITHMS",
    "TOKEN_TYPE",
    "Algorithm",
    "FoundKey",
    "SigningKey",
    "VerificationKey",
    "thumbprint",
]

Algorithm = Literal["EdDSA", "RS256"]
"""What SARK itself signs with."""

TOKEN_TYPE = "at+jwt"  # noqa: S105 - a media type (RFC 9068 section 2.1)
RSA_BITS = 2048
LARGEST_RSA_BITS = 8192
RSA_EXPONENT = 65537

# Algorithms of outside keys by type and curve; the first is meant when the key names none.
_USABLE: dict[tuple[str, str], tuple[str, ...]] = {
    ("RSA", ""): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
ACCEPTED_ALGORITHMS = frozenset(name for names in _USABLE.values() for name in names)
"""What outside tokens may be signed with: public-key signatures only."""

# The members that make a key, which its thumbprint covers (RFC 7638 section 3.2, RFC 8037).
_REQUIRED = {"RSA": ("e", "kty", "n"), "OKP": ("crv", "kty", "x")}
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "k"})
_MATHEMATICS: dict[str, Mathematics] = get_default_algorithms()
_PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey
_encode = msgspec.json.Encoder().encode


class VerificationKey:
    """A public key.

    Attributes:
        kid: Its name in tokens.
        algorithm: The one algorithm that it verifies.
        material: The key itself, in DER, to tell it from another one of the same name.
    """

    __slots__ = ("_mathematics", "_public", "algorithm", "kid", "material")

    def __init__(self, kid: str, algorithm: str, public: _PublicKey) -> None:
        self.kid = kid
        self.algorithm = algorithm
        self._public = public
        self._mathematics = _MATHEMATICS[algorithm]
        self.material = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.kid} {self.algorithm}>"

    @classmethod
    def from_jwk(cls, jwk: Mapping[str, Any]) -> VerificationKey:
        """Read an outside key.

        Raises:
            ValueError: It isn't a public key for signatures that are accepted.
        """
        kid, kty, crv = (jwk.get(name, "") for name in ("kid", "kty", "crv"))
        if not (isinstance(kid, str) and isinstance(kty, str) and isinstance(crv, str) and kid):
            raise ValueError("kid, kty or crv is missing or no text")
        usable = _USABLE.get((kty, "" if kty == "RSA" else crv), ())
        algorithm = jwk.get("alg", usable[0] if usable else "")
        if algorithm not in usable or jwk.get("use", "sig") != "sig" or _PRIVATE & jwk.keys():
            raise ValueError("not a public key for signatures of an accepted algorithm")
        try:
            public = _MATHEMATICS[algorithm].from_jwk(dict(jwk))
        except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError):
            raise ValueError("the parts of the key don't fit") from None
        if isinstance(public, RSAPublicKey) and not (
            RSA_BITS <= public.key_size <= LARGEST_RSA_BITS
        ):
            raise ValueError(f"an RSA key of {public.key_size} bits")
        return cls(kid, algorithm, public)

    def verifies(self, signed: bytes, signature: bytes) -> bool:
        """Whether this key made the signature."""
        return self._mathematics.verify(signed, self._public, signature)


class FoundKey(NamedTuple):
    """A key that verifies a token.

    Attributes:
        key: The key.
        until: Unix time until which its word counts.
    """

    key: VerificationKey
    until: float


class SigningKey:
    """A private key of ours. What it is made of appears in ``private_jwk`` alone.

    Attributes:
        kid: Its thumbprint (RFC 7638), the same wherever it is computed.
        algorithm: What it signs with.
        public_jwk: What others need to verify, as published.
        verification: The key that verifies what this one signs.
    """

    __slots__ = (
        "_header",
        "_mathematics",
        "_private",
        "algorithm",
        "kid",
        "public_jwk",
        "verification",
    )

    def __init__(self, algorithm: Algorithm, private: Ed25519PrivateKey | RSAPrivateKey) -> None:
        self.algorithm = algorithm
        self._private = private
        self._mathematics = _MATHEMATICS[algorithm]
        public = private.public_key()
        jwk = self._mathematics.to_jwk(public, as_dict=True)
        self.kid = thumbprint(jwk)
        self.verification = VerificationKey(self.kid, algorithm, public)
        kept = {name: jwk[name] for name in _REQUIRED[jwk["kty"]]}
        self.public_jwk = {**kept, "kid": self.kid, "alg": algorithm, "use": "sig"}
        header = _encode({"alg": algorithm, "kid": self.kid, "typ": TOKEN_TYPE})
        self._header = encode_base64url(header)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.kid} {self.algorithm}>"

    @classmethod
    def generate(cls, algorithm: Algorithm) -> SigningKey:
        """Make a new key."""
        if algorithm == "EdDSA":
            return cls(algorithm, Ed25519PrivateKey.generate())
        return cls(algorithm, generate_private_key(RSA_EXPONENT, RSA_BITS))

    @classmethod
    def from_private_jwk(cls, algorithm: str, jwk: Mapping[str, Any]) -> SigningKey:
        """Read a key of ours back.

        Raises:
            ValueError: It isn't one.
        """
        try:
            if algorithm == "EdDSA":
                okp = OKPAlgorithm.from_jwk(dict(jwk))
                if isinstance(okp, Ed25519PrivateKey):
                    return cls("EdDSA", okp)
            elif algorithm == "RS256":
                rsa = RSAAlgorithm.from_jwk(dict(jwk))
                if isinstance(rsa, RSAPrivateKey) and rsa.key_size >= RSA_BITS:
                    return cls("RS256", rsa)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError):
            pass
        raise ValueError("not a private key of the algorithm")

    def private_jwk(self) -> dict[str, Any]:
        """Write the key down, secret parts and all: for the key folder only."""
        jwk: dict[str, Any] = self._mathematics.to_jwk(self._private, as_dict=True)
        jwk.pop("key_ops", None)
        return jwk

    def sign(self, payload: bytes) -> str:
        """Sign a JSON object; the same payload gives the same token, with both algorithms."""
        signed = f"{self._header}.{encode_base64url(payload)}"
        signature = self._mathematics.sign(signed.encode(), self._private)
        return f"{signed}.{encode_base64url(signature)}"


def thumbprint(jwk: Mapping[str, Any]) -> str:
    """Name a key by what it is (RFC 7638): SHA-256 of its required members, in base64url."""
    members = {name: jwk[name] for name in _REQUIRED[jwk["kty"]]}
    return encode_base64url(sha256(_encode(members)).digest())
