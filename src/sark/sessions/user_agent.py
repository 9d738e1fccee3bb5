"""What is kept of a user agent: a few words for people, and a digest to recognise it by.

A browser sends 100 to 250 bytes. One field of more than 64 bytes (Valkey's default of
``hash-max-listpack-value``) turns the session's hash from its compact encoding into a table of
nearly twice the size, so a summary is stored instead.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from functools import lru_cache
from hashlib import sha256

__all__ = ["MAX_SUMMARY_BYTES", "user_agent_digest", "user_agent_summary"]

MAX_SUMMARY_BYTES = 60
_LONGEST_READ = 1024
_DIGEST_BYTES = 12

_COMMENT = re.compile(r"\(([^()]*)\)")
_PRODUCT = re.compile(r"([A-Za-z][\w.-]*)/(\d+)")
# What browsers name for the sake of old servers, and what says nothing beside a better name.
_DISGUISES = frozenset({"Mozilla", "AppleWebKit", "Gecko", "Safari", "Version", "Mobile"})
# Each browser of the Chromium family also calls itself Chrome.
_CHROME = "Chrome"
_FILLERS = frozenset({"X11", "compatible", "Windows", "U"})


def user_agent_summary(user_agent: str) -> str:
    """Shorten a ``User-Agent`` header (RFC 9110) for people.

    Returns:
        Such as ``Firefox/128, Ubuntu``: printable ASCII of at most ``MAX_SUMMARY_BYTES`` bytes.
        What doesn't look like a browser is cut.
    """
    text = "".join(
        c if c.isascii() and c.isprintable() else "?" for c in user_agent[:_LONGEST_READ]
    )
    if not text.startswith("Mozilla/"):
        return text[:MAX_SUMMARY_BYTES].strip()
    product, platform = _product(text), _platform(text)
    return ", ".join(part for part in (product, platform) if part)[:MAX_SUMMARY_BYTES]


@lru_cache(maxsize=1024)
def user_agent_digest(user_agent: str) -> str:
    """Digest a user agent, in 16 characters (96 bits).

    Digits are left out: a browser that updates itself is still the same one.
    """
    text = re.sub(r"\d+", "", user_agent)
    digest = sha256(text.encode(errors="surrogatepass")).digest()
    return urlsafe_b64encode(digest[:_DIGEST_BYTES]).decode()


def _product(text: str) -> str:
    """Find the name that distinguishes a browser from those that it imitates."""
    named = {name: f"{name}/{version}" for name, version in _PRODUCT.findall(text)}
    own = [product for name, product in named.items() if name not in _DISGUISES]
    special = [product for product in own if not product.startswith(f"{_CHROME}/")]
    if special or own:
        return (special or own)[-1]
    return named["Version"].replace("Version", "Safari") if "Version" in named else "browser"


def _platform(text: str) -> str:
    comment = _COMMENT.search(text)
    if comment is None:
        return ""
    words = [word.strip() for word in comment.group(1).split(";")]
    return next((word for word in words if word and word not in _FILLERS), "")
