"""Where the secret keys are, and how long those that sign are kept."""

from __future__ import annotations

from pathlib import Path

from sark.errors import SettingsError
from sark.sessions.tokens import retention_of
from sark.settings import Settings

__all__ = ["key_directory", "key_retention"]


def key_directory(settings: Settings) -> Path:
    """Find the folder of secret keys.

    Raises:
        SettingsError: It must be named, because other processes have to use the same one.
    """
    if settings.key_dir is not None:
        return settings.key_dir
    if settings.valkey_url is None:
        return settings.data_dir / "keys"
    raise SettingsError(
        "SARK_KEY_DIR: got nothing, expected the folder of the keys that all processes of this "
        "deployment share, because VALKEY_URL is set (an empty folder is filled)"
    )


def key_retention(settings: Settings) -> int:
    """Seconds for which a signing key verifies after it has been retired."""
    return retention_of(settings.access_token_ttl, settings.token_leeway)
