"""What is kept of a user agent, and what sessions are bound to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sark.errors import BindingError, InvalidRequestError
from sark.sessions.binding import Binding, canonical_ip, network_of
from sark.sessions.user_agent import MAX_SUMMARY_BYTES, user_agent_digest, user_agent_summary

WEBKIT = "AppleWebKit/537.36 (KHTML, like Gecko)"
APPLE = "AppleWebKit/605.1.15 (KHTML, like Gecko)"


@pytest.mark.parametrize(
    ("user_agent", "summary"),
    [
        (
            f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {WEBKIT} Chrome/126.0.0.0 Safari/537.36",
            "Chrome/126, Windows NT 10.0",
        ),
        (
            (
                f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {WEBKIT} Chrome/126.0.0.0 "
                "Safari/537.36 Edg/126.0.2592.113"
            ),
            "Edg/126, Windows NT 10.0",
        ),
        (
            f"Mozilla/5.0 (Linux; Android 10; K) {WEBKIT} Chrome/126.0.0.0 Mobile Safari/537.36",
            "Chrome/126, Linux",
        ),
        (
            "Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
            "Firefox/128, Ubuntu",
        ),
        (
            f"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) {APPLE} Version/17.5 Safari/605.1.15",
            "Safari/17, Macintosh",
        ),
        (
            (
                f"Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) {APPLE} Version/17.5 "
                "Mobile/15E148 Safari/604.1"
            ),
            "Safari/17, iPhone",
        ),
        ("Mozilla/5.0", "browser"),
        ("curl/8.5.0", "curl/8.5.0"),
        ("my app\r\nX: é", "my app??X: ?"),
        ("", ""),
    ],
)
def test_summaries(user_agent: str, summary: str) -> None:
    assert user_agent_summary(user_agent) == summary


@given(st.text(max_size=3000) | st.from_regex(r"Mozilla/[ -~]{0,300}", fullmatch=True))
def test_any_text_has_a_summary_that_fits(user_agent: str) -> None:
    summary = user_agent_summary(user_agent)
    assert len(summary) <= MAX_SUMMARY_BYTES
    assert summary.isascii()
    assert not summary or summary.isprintable()
    assert len(user_agent_digest(user_agent)) == 16


def test_an_update_keeps_the_digest_and_another_browser_does_not() -> None:
    chrome = f"Mozilla/5.0 (Windows NT 10.0) {WEBKIT} Chrome/126.0.0.0 Safari/537.36"
    assert user_agent_digest(chrome) == user_agent_digest(chrome.replace("126", "127"))
    assert user_agent_digest(chrome) != user_agent_digest(chrome.replace("Windows", "Linux"))


@pytest.mark.parametrize(
    ("ip", "network"),
    [
        ("192.0.2.7", "192.0.2.0/24"),
        ("::ffff:192.0.2.7", "192.0.2.0/24"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
    ],
)
def test_networks(ip: str, network: str) -> None:
    assert network_of(ip) == network
    assert network_of(canonical_ip(ip)) == network


@pytest.mark.parametrize("ip", ["", "x", "192.0.2", "192.0.2.7/24", "fe80::1%eth0", "1" * 5000])
def test_what_is_no_address_has_no_network(ip: str) -> None:
    with pytest.raises(InvalidRequestError):
        network_of(ip)


def test_only_what_matters_is_taken() -> None:
    ip, user_agent = "192.0.2.7", "curl/8.5.0"
    agent = user_agent_digest(user_agent)
    assert Binding.of("none", None, None) == ("", "")
    assert Binding.of("none", "no address", "x") == ("", "")
    assert Binding.of("network", ip, None) == ("192.0.2.0/24", "")
    assert Binding.of("user_agent", None, user_agent) == ("", agent)
    assert Binding.of("both", ip, user_agent) == ("192.0.2.0/24", agent)
    for missing in ((None, user_agent), (ip, None), ("", ""), (ip, "")):
        with pytest.raises(BindingError):
            Binding.of("both", *missing)
