"""An embedded Valkey server, for development."""

from sark.store.embedded.server import EmbeddedServer

__all__ = ["EmbeddedServer"]
