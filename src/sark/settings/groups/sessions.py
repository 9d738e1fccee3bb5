"""Who is logged in, and by which tokens."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from sark.settings import _kinds as kinds
from sark.settings._choices import SessionBind, SessionCapPolicy, TokenAlgorithm
from sark.settings._kinds import TrustedIssuer

__all__ = ["SessionSettings"]

_TOKEN_NAME = kinds.text("1 to 256 printable ASCII characters without spaces", r"[!-~]{1,256}")
_PART_OF_TOKEN = kinds.text("1 to 128 printable ASCII characters without spaces", r"[!-~]{1,128}")


class SessionSettings(BaseModel):
    """Who is logged in, and by which tokens."""

    session_ttl: Annotated[int, kinds.whole(60, 366 * 86_400, "seconds")] = Field(
        default=7 * 86_400,
        validation_alias="SARK_SESSION_TTL",
        description="Longest life of a session, however it is used.",
    )
    session_idle: Annotated[int, kinds.whole(120, 366 * 86_400, "seconds")] = Field(
        default=86_400,
        validation_alias="SARK_SESSION_IDLE",
        description=(
            "Time without use after which a session ends. Its use is noted once a minute, so it "
            "may end up to a minute early."
        ),
    )
    session_cap: Annotated[int, kinds.whole(1, 1000, "sessions")] = Field(
        default=10,
        validation_alias="SARK_SESSION_CAP",
        description="Most sessions of one user at a time.",
    )
    session_cap_policy: Annotated[SessionCapPolicy, kinds.choice("end_oldest", "refuse")] = Field(
        default="end_oldest",
        validation_alias="SARK_SESSION_CAP_POLICY",
        description=(
            "What a login beyond the cap does: `end_oldest` ends the session that would end "
            "first, unused or by its latest end; `refuse` refuses the login."
        ),
    )
    session_bind: Annotated[SessionBind, kinds.choice("none", "network", "user_agent", "both")] = (
        Field(
            default="none",
            validation_alias="SARK_SESSION_BIND",
            description=(
                "What sessions are bound to: the network that they began in (/24, with IPv6 /64), "
                "the user agent that began them, both or nothing."
            ),
        )
    )
    session_adopt: Annotated[bool, kinds.flag()] = Field(
        default=False,
        validation_alias="SARK_SESSION_ADOPT",
        description=(
            "Whether the token of a trusted outside issuer begins a session when it is first seen. "
            "Otherwise such tokens are refused (`no_session`). Needs a state server that "
            "doesn't evict."
        ),
    )
    access_token_ttl: Annotated[int, kinds.whole(10, 86_400, "seconds")] = Field(
        default=900,
        validation_alias="SARK_ACCESS_TOKEN_TTL",
        description="Life of an access token.",
    )
    refresh_grace: Annotated[int, kinds.whole(0, 300, "seconds")] = Field(
        default=10,
        validation_alias="SARK_REFRESH_GRACE",
        description=(
            "How long a refresh token that was traded gives the same successor again, for a client "
            "that lost the answer; later its use ends the session."
        ),
    )
    token_issuer: Annotated[str, _TOKEN_NAME] = Field(
        default="sark",
        validation_alias="SARK_TOKEN_ISSUER",
        description="Who issues access tokens (`iss`), usually the public URL of this service.",
    )
    token_audience: Annotated[str, _TOKEN_NAME] = Field(
        default="sark",
        validation_alias="SARK_TOKEN_AUDIENCE",
        description="Whom access tokens are for (`aud`); others are refused.",
    )
    token_algorithm: Annotated[TokenAlgorithm, kinds.choice("EdDSA", "RS256")] = Field(
        default="EdDSA",
        validation_alias="SARK_TOKEN_ALGORITHM",
        description="What new signing keys sign with; keys that are there keep theirs.",
    )
    token_leeway: Annotated[int, kinds.whole(0, 300, "seconds")] = Field(
        default=30,
        validation_alias="SARK_TOKEN_LEEWAY",
        description="How far clocks may differ when the times in a token are checked.",
    )
    token_cache_entries: Annotated[int, kinds.whole(0, 10_000_000, "entries")] = Field(
        default=10_000,
        validation_alias="SARK_TOKEN_CACHE_ENTRIES",
        description=(
            "Most access tokens whose signature is remembered as verified, in each process; 0 "
            "verifies each time."
        ),
    )
    trusted_issuers: Annotated[tuple[TrustedIssuer, ...] | None, kinds.trusted_issuers()] = Field(
        default=None,
        validation_alias="SARK_TRUSTED_ISSUERS",
        description="Outside identity providers whose access tokens are accepted.",
    )
    trusted_audience: Annotated[str | None, _TOKEN_NAME] = Field(
        default=None,
        validation_alias="SARK_TRUSTED_AUDIENCE",
        description="Whom their tokens must be for (`aud`). Unset: `SARK_TOKEN_AUDIENCE`.",
    )
    trusted_types: Annotated[tuple[str, ...], kinds.names("[A-Za-z0-9+./-]{1,64}")] = Field(
        default=("at+jwt",),
        validation_alias="SARK_TRUSTED_TYPES",
        description=(
            "Values of `typ` that their tokens may have. Providers from before RFC 9068 write "
            "`JWT`, in identity tokens too, which only the audience then keeps out."
        ),
    )
    trusted_user_prefix: Annotated[str, _PART_OF_TOKEN] = Field(
        default="{issuer}|",
        validation_alias="SARK_TRUSTED_USER_PREFIX",
        description=(
            "Put before their users' ids, with `{issuer}` for the issuer. `none`: all issuers and "
            "local logins share one space of users, so each may speak for all of them."
        ),
    )
    trusted_tier_claim: Annotated[
        str | None,
        _PART_OF_TOKEN,
    ] = Field(
        default=None,
        validation_alias="SARK_TRUSTED_TIER_CLAIM",
        description="The claim of their tokens that names the user's plan. Unset: they name none.",
    )
    trusted_refresh: Annotated[int, kinds.whole(10, 86_400, "seconds")] = Field(
        default=300,
        validation_alias="SARK_TRUSTED_REFRESH",
        description="How often their keys are fetched.",
    )
    trusted_stale: Annotated[int, kinds.whole(60, 604_800, "seconds")] = Field(
        default=3600,
        validation_alias="SARK_TRUSTED_STALE",
        description="How long their keys stay in use after the last answer.",
    )
