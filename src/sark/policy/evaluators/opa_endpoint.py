"""Where OPA is, and the certificates for the way there."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import SecretStr

from sark.errors import ConfigurationError
from sark.settings import Settings

__all__ = ["Certificates", "OpaEndpoint"]

UNIX = "unix://"


@dataclass(frozen=True, slots=True)
class OpaEndpoint:
    """Where OPA is, and how to get there.

    Attributes:
        url: ``http://``, ``https://`` or ``unix://`` address, without credentials.
        token: Bearer token.
        ca_file: PEM file of the authorities to trust, instead of the system's.
        client_cert_file: PEM file of the certificate to show, with its chain.
        client_key_file: PEM file of its key, not encrypted.
    """

    url: str
    token: SecretStr | None = None
    ca_file: Path | None = None
    client_cert_file: Path | None = None
    client_key_file: Path | None = None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Read the endpoint from the settings.

        Raises:
            ConfigurationError: ``OPA_URL`` is not set.
        """
        if settings.opa_url is None:
            raise ConfigurationError("OPA_URL is not set")
        return cls(
            settings.opa_url,
            settings.opa_token,
            settings.opa_ca_file,
            settings.opa_client_cert_file,
            settings.opa_client_key_file,
        )

    @property
    def socket(self) -> str | None:
        """Path of the unix socket; None when it is reached by TCP."""
        return self.url.removeprefix(UNIX) if self.url.startswith(UNIX) else None

    @property
    def base(self) -> str:
        """What request paths are appended to."""
        # The name in the Host header of requests over a socket; nobody resolves it.
        return "http://opa" if self.socket else self.url.rstrip("/")


class Certificates:
    """The TLS context of an endpoint, made from files that may be replaced while it is in use.

    Whoever issues certificates for hours writes new ones beside a running process. Each change of
    a file makes a new context; connections that were made with the last one are not used again.

    Args:
        endpoint: Names the files.

    Attributes:
        context: What to connect with.
    """

    def __init__(self, endpoint: OpaEndpoint) -> None:
        self.context: ssl.SSLContext | bool = True
        self._endpoint = endpoint
        self._seen: tuple[tuple[int, int, int] | None, ...] | None = None

    def read(self) -> bool:
        """Read the files if they have changed; True when they had.

        Raises:
            ConfigurationError: They are unusable, such as a key that is not the certificate's
                because only one of them has been replaced yet. The context stays.
        """
        endpoint = self._endpoint
        if not endpoint.url.startswith("https://"):
            return False
        files = (endpoint.ca_file, endpoint.client_cert_file, endpoint.client_key_file)
        seen = tuple(map(_fingerprint, files))
        if seen == self._seen:
            return False
        self.context = _context(endpoint)
        self._seen = seen
        return True


def _fingerprint(file: Path | None) -> tuple[int, int, int] | None:
    try:
        status = None if file is None else file.stat()
    except OSError:
        return None
    return None if status is None else (status.st_mtime_ns, status.st_size, status.st_ino)


def _context(endpoint: OpaEndpoint) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=endpoint.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise _unusable("OPA_CA_FILE", endpoint.ca_file, error) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if endpoint.client_cert_file is None:
        return context
    try:
        # Without a password OpenSSL would ask for one on the terminal.
        context.load_cert_chain(endpoint.client_cert_file, endpoint.client_key_file, password="")
    except (OSError, ssl.SSLError) as error:
        files = f"{endpoint.client_cert_file} with {endpoint.client_key_file}"
        raise _unusable("OPA_CLIENT_CERT_FILE", files, error) from None
    return context


def _unusable(variable: str, file: object, error: OSError) -> ConfigurationError:
    # An SSLError is an OSError with numbers of OpenSSL.
    is_tls = isinstance(error, ssl.SSLError) or error.errno is None
    why = "no usable PEM file" if is_tls else os.strerror(error.errno or 0).lower()
    return ConfigurationError(f"{variable}: {file}: {why}")
