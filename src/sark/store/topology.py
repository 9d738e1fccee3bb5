"""Where the servers are, as data. The one place that knows about URLs and roles."""

from __future__ import annotations

from dataclasses import dataclass, field

from sark.settings import Settings

__all__ = ["Topology"]


@dataclass(frozen=True, slots=True)
class Topology:
    """The servers of a deployment.

    Attributes:
        cache_url: Server of the ``cache`` role.
        state_url: Server of the ``state`` role; the same URL when one server has both.
        password: For URLs that hold none.
    """

    cache_url: str = field(repr=False)
    state_url: str = field(repr=False)
    password: str | None = field(repr=False, default=None)

    @property
    def shared(self) -> bool:
        """Whether one server has both roles."""
        return self.cache_url == self.state_url

    @classmethod
    def single(cls, url: str, password: str | None = None) -> Topology:
        """One server for both roles."""
        return cls(url, url, password)

    @classmethod
    def of(cls, settings: Settings) -> Topology | None:
        """Read the topology from the settings; None when no server is named (embedded)."""
        if settings.valkey_url is None:
            return None
        cache = settings.valkey_url.get_secret_value()
        state = settings.valkey_state_url
        password = settings.valkey_password
        return cls(
            cache_url=cache,
            state_url=state.get_secret_value() if state is not None else cache,
            password=password.get_secret_value() if password is not None else None,
        )
