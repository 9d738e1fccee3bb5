"""Where the commands about sessions find them: at a running service, or in Valkey itself."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol
from urllib.parse import quote

import msgspec

from sark.admission import Admission
from sark.cli.service_client import ServiceClient, admin_of, user_path
from sark.cli.spilled import spilled_told
from sark.errors import AuditError, SarkError
from sark.parts.admission import open_admission
from sark.sessions import Revocation, Session, Sessions
from sark.settings import Settings

__all__ = ["SessionSource", "source_of"]


class SessionSource(Protocol):
    """Sees and ends sessions. Each may raise a ``SarkError`` of one line."""

    async def list(self, user_id: str) -> Sequence[Session]:
        """List a user's sessions, the newest first."""
        ...

    async def show(self, user_id: str, session_id: str) -> Session:
        """Read one; an error when it is not alive."""
        ...

    async def revoke(self, user_id: str, session_id: str) -> Revocation:
        """End one."""
        ...

    async def revoke_all(self, user_id: str, spared: str | None) -> Revocation:
        """End all of them, or all but one."""
        ...


def source_of(settings: Settings, address: str | None) -> SessionSource:
    """Find the sessions: in Valkey with VALKEY_URL, unless a service is named.

    Raises:
        ConfigurationError: There is neither Valkey nor a service.
    """
    if address is None and settings.valkey_url is not None:
        return StoredSource(settings)
    return ServiceSource(admin_of(settings, address))


class ServiceSource:
    """Asks a service, as its administrator."""

    def __init__(self, client: ServiceClient) -> None:
        self._client = client

    async def list(self, user_id: str) -> Sequence[Session]:
        """See ``SessionSource``."""
        found = await self._client.call("GET", _path(user_id))
        return msgspec.convert(found["sessions"], list[Session])

    async def show(self, user_id: str, session_id: str) -> Session:
        """See ``SessionSource``."""
        return msgspec.convert(await self._client.call("GET", _path(user_id, session_id)), Session)

    async def revoke(self, user_id: str, session_id: str) -> Revocation:
        """See ``SessionSource``."""
        return await self._end(_path(user_id, session_id))

    async def revoke_all(self, user_id: str, spared: str | None) -> Revocation:
        """See ``SessionSource``."""
        query = "" if spared is None else f"?except={quote(spared, safe='')}"
        return await self._end(_path(user_id) + query)

    async def _end(self, path: str) -> Revocation:
        found: Any = await self._client.call("DELETE", path)
        return msgspec.convert(found, Revocation)


class StoredSource:
    """Reads and writes Valkey; what it ends is recorded in the audit queue as by an admin."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def list(self, user_id: str) -> Sequence[Session]:
        """See ``SessionSource``."""
        async with self._open() as (_, sessions):
            return await sessions.list(user_id)

    async def show(self, user_id: str, session_id: str) -> Session:
        """See ``SessionSource``."""
        async with self._open() as (_, sessions):
            found = await sessions.get(user_id, session_id)
        if found is None:
            raise SarkError("No such session: the user has no living session of this id")
        return found

    async def revoke(self, user_id: str, session_id: str) -> Revocation:
        """See ``SessionSource``."""
        async with self._open() as (admission, _):
            return await admission.revoke(user_id, session_id, by="admin")

    async def revoke_all(self, user_id: str, spared: str | None) -> Revocation:
        """See ``SessionSource``."""
        async with self._open() as (admission, _):
            return await admission.revoke_user(user_id, except_session=spared, by="admin")

    @contextlib.asynccontextmanager
    async def _open(self) -> AsyncIterator[tuple[Admission, Sessions]]:
        try:
            with spilled_told(self._settings) as hub:
                async with open_admission(self._settings, hub=hub) as opened:
                    yield opened
        except AuditError as error:
            if not error.freshness:
                raise
            raise SarkError(f"the sessions have ended, which is not recorded: {error}") from None


def _path(user_id: str, session_id: str | None = None) -> str:
    path = f"{user_path(user_id)}/sessions"
    return path if session_id is None else f"{path}/{quote(session_id, safe='')}"
