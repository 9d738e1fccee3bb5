"""The scripts of sessions, assembled from their fragments."""

from __future__ import annotations

from sark.store import Script, load_script

__all__ = ["CHECK_FRAGMENTS", "CLOCK_FRAGMENT"]

CLOCK_FRAGMENT = ("sark.store", "clock.lua")


def _file(name: str) -> tuple[str, str]:
    return "sark.sessions", name


_ENDING = (_file("ending.lua"), _file("live.lua"))
_USE = (*_ENDING, _file("seen.lua"), _file("foreign.lua"))
# To be composed behind the clock.
CHECK_FRAGMENTS = (*_USE, _file("check.lua"))


def _script(name: str, *fragments: tuple[str, str]) -> Script:
    return load_script(f"sessions.{name}", CLOCK_FRAGMENT, *fragments, _file(f"{name}.lua"))


CHECK = load_script("sessions.check", CLOCK_FRAGMENT, *CHECK_FRAGMENTS, _file("check_main.lua"))
CREATE = _script("create", *_ENDING, _file("begin.lua"))
ADOPT = _script("adopt", *_ENDING, _file("begin.lua"))
REFRESH = _script("refresh", *_USE)
TOUCH = _script("touch", *_USE)
REVOKE = _script("revoke", *_ENDING)
REVOKE_USER = _script("revoke_user")
REVOKE_TOKEN = _script("revoke_token")
SWEEP = _script("sweep")
GET = _script("get", *_ENDING)
IDS = _script("ids")
