"""Finding and asking a running service."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec
from pydantic import SecretStr
from yarl import URL

from sark.errors import ConfigurationError, SarkError
from sark.settings import Settings
from sark.store.datadir import read_run_file

__all__ = ["ServiceClient", "admin_of", "caller_of", "running_admin", "user_path"]

TIMEOUT_SECONDS = 10.0
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where it listens, not we


@dataclass(frozen=True, slots=True)
class ServiceClient:
    """Asks one service.

    Attributes:
        address: Where it is.
        token: What to show it.
        variable: The setting that has to hold the token, for a message.
    """

    address: str
    token: SecretStr | None
    variable: str

    async def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Send a request, and return the document of its answer.

        Args:
            method: ``GET``, ``POST`` or ``DELETE``.
            path: The route, percent-encoded.
            body: Members of the body; None ones are left out.

        Raises:
            SarkError: The service did not answer, or refused; one line.
        """
        url = URL(f"{self.address}{path}", encoded=True)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        data = None
        if body is not None:
            # Left-out members stay out: the service tells null from absent.
            data = msgspec.json.encode({k: v for k, v in body.items() if v is not None})
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.request(method, url, data=data, headers=self._headers()) as response,
            ):
                answer = await response.read()
                if response.status == HTTPStatus.OK:
                    return msgspec.json.decode(answer, type=dict[str, Any])
        except (aiohttp.ClientError, TimeoutError) as error:
            raise SarkError(f"{url}: {error or type(error).__name__}") from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise SarkError(f"{url}: answered {response.status} without a JSON object") from None
        raise self._refusal(response.status, url, answer)

    async def lines(self, path: str, body: bytes) -> AsyncGenerator[bytes, None]:
        """Send a request whose answer is lines of JSON, and return each as it comes.

        Args:
            path: The route, percent-encoded.
            body: JSON.

        Raises:
            SarkError: The service did not answer, refused, or fell silent; one line.
        """
        url = URL(f"{self.address}{path}", encoded=True)
        timeout = aiohttp.ClientTimeout(total=None, sock_read=TIMEOUT_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(url, data=body, headers=self._headers()) as response,
            ):
                if response.status != HTTPStatus.OK:
                    raise self._refusal(response.status, url, await response.read())
                async for line in response.content:
                    yield line
        except (aiohttp.ClientError, TimeoutError) as error:
            raise SarkError(f"{url}: {error or type(error).__name__}") from None

    def _refusal(self, status: int, url: URL, body: bytes) -> SarkError:
        try:
            document = msgspec.json.decode(body, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError):
            return SarkError(f"{url}: answered {status} without a JSON object")
        if status == HTTPStatus.UNAUTHORIZED:
            return SarkError(f"{_problem(document)}; {self.variable} has to be the service's")
        return SarkError(_problem(document))

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token.get_secret_value()}"
        return headers


def caller_of(settings: Settings) -> ServiceClient:
    """Find the service that runs on the data directory, as one of its callers.

    Raises:
        ConfigurationError: None runs there.
    """
    run = read_run_file(settings.data_dir)
    if run is None or run.http is None:
        raise ConfigurationError(
            f"no service runs on {settings.data_dir}: start one with `sark serve`, "
            "or set VALKEY_URL"
        )
    return ServiceClient(run.http, settings.service_token, "SARK_SERVICE_TOKEN")


def running_admin(settings: Settings) -> ServiceClient | None:
    """Find the service that runs on the data directory, as its administrator; None without one."""
    run = None if settings.valkey_url is not None else read_run_file(settings.data_dir)
    if run is None or run.http is None:
        return None
    token = settings.admin_token if run.admin_token is None else SecretStr(run.admin_token)
    return ServiceClient(run.http, token, "SARK_ADMIN_TOKEN")


def admin_of(settings: Settings, address: str | None) -> ServiceClient:
    """Find a service as its administrator.

    Args:
        settings: With VALKEY_URL, the service is expected on SARK_HOST and SARK_PORT.
        address: Where it is instead.

    Raises:
        ConfigurationError: There is none.
    """
    if address is None:
        found = running_admin(settings)
        if found is not None:
            return found
        if settings.valkey_url is None:
            raise ConfigurationError(
                f"no service runs on {settings.data_dir}: start one with `sark serve`, set "
                "VALKEY_URL as the service has it, or name one with --service"
            )
        host = EVERYWHERE.get(settings.host, settings.host)
        address = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
    elif not address.startswith(("http://", "https://")):
        raise ConfigurationError(f"--service: got {address!r}, expected http://host:port")
    if settings.admin_token is None:
        raise ConfigurationError("SARK_ADMIN_TOKEN is not set: it has to be the service's")
    return ServiceClient(address.rstrip("/"), settings.admin_token, "SARK_ADMIN_TOKEN")


def user_path(user_id: str) -> str:
    """Name a user in a path.

    A segment of dots alone would be taken for a step in the path, so its dots are encoded too.
    """
    encoded = quote(user_id, safe="")
    return f"/v1/users/{encoded.replace('.', '%2E') if not encoded.strip('.') else encoded}"


def _problem(document: dict[str, Any]) -> str:
    parts = [str(document.get("title", "refused"))]
    parts += [str(document[name]) for name in ("field", "detail") if document.get(name)]
    return ": ".join(parts)
