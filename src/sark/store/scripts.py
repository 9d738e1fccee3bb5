"""Lua scripts: files beside the modules that use them, assembled and named by their digest.

A script is a list of fragments followed by a body. A fragment is a ``.lua`` file that defines one
``local function`` and runs nothing; the body calls them and returns the reply. So what shares a
server in one request can share one call, while every fragment stays with its owner and can also be
used alone. Assembled text was preferred over a function library (``FUNCTION LOAD``): its name is
the digest of its content, so that versions of the service can run side by side on one server.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha1
from importlib.resources import files

__all__ = ["Script", "load_script"]

ALLOW_OOM = "#!lua flags=allow-oom"
"""First line of a script (Valkey documentation, "Scripting with Lua", script flags)."""


@dataclass(frozen=True, slots=True)
class Script:
    """One script as the server knows it.

    Attributes:
        name: For people: metrics, logs and errors.
        text: The assembled Lua.
        sha: Its SHA-1, by which ``EVALSHA`` names it.
    """

    name: str
    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        digest = sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "sha", digest)


def load_script(name: str, *parts: tuple[str, str], when_full: bool = False) -> Script:
    """Assemble a script from package files.

    Args:
        name: What to call it.
        parts: ``(package, file)`` of each fragment in order, the body last.
        when_full: Whether it also runs when the server is above its ``maxmemory``: for scripts that
            let data leave.
    """
    texts = [files(package).joinpath(file).read_text("utf-8") for package, file in parts]
    return Script(name, "\n".join([ALLOW_OOM, *texts] if when_full else texts))
