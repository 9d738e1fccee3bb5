"""Whose address a request has, behind proxies, and that no header of a client chooses it."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sark.errors import SettingsError
from sark.http.client_address import MAX_HOPS, TrustedProxies
from sark.http.forwarded import MAX_BYTES
from sark.settings import load

PEER = "10.0.0.1"
OWN = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
Header = Literal["x-forwarded-for", "forwarded"]


def scope(
    *lines: str | bytes, header: str = "x-forwarded-for", peer: str | None = PEER
) -> dict[str, Any]:
    values = [line.encode("latin-1") if isinstance(line, str) else line for line in lines]
    client = None if peer is None else (peer, 40_000)
    headers = [(b"host", b"h"), *((header.encode(), value) for value in values)]
    return {"type": "http", "client": client, "headers": headers}


def by_networks(*lines: str, header: Header = "x-forwarded-for", peer: str | None = PEER) -> Any:
    trusted = TrustedProxies(OWN, header=header)
    return trusted.client_address(scope(*lines, header=header, peer=peer))


def by_count(count: int, *lines: str, header: Header = "x-forwarded-for") -> Any:
    trusted = TrustedProxies(count=count, header=header)
    return trusted.client_address(scope(*lines, header=header))


class TestNobodyTrusted:
    @pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded", "x-real-ip"])
    def test_the_address_is_the_peers(self, header: str) -> None:
        given = scope("9.9.9.9", "for=9.9.9.9", header=header, peer="192.0.2.7")
        assert TrustedProxies().client_address(given) == "192.0.2.7"

    @pytest.mark.parametrize(
        ("peer", "address"),
        [
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:DB8:0::1", "2001:db8::1"),
            ("fe80::1%eth0", "fe80::1"),
            (None, None),
            ("", None),
            ("testclient", None),
        ],
    )
    def test_its_form(self, peer: str | None, address: str | None) -> None:
        assert TrustedProxies().client_address(scope(peer=peer)) == address

    @given(st.lists(st.binary(max_size=60), max_size=5), st.lists(st.binary(max_size=60)))
    def test_whatever_the_headers_say(self, forwarded: list[bytes], others: list[bytes]) -> None:
        given = scope(*others)
        given["headers"] += [(b"forwarded", value) for value in forwarded]
        for header in ("x-forwarded-for", "forwarded"):
            assert TrustedProxies(header=header).client_address(given) == PEER


class TestXForwardedFor:
    @pytest.mark.parametrize(
        ("lines", "address"),
        [
            ([], PEER),
            (["192.0.2.7"], "192.0.2.7"),
            # The client's own claim stands left of what the proxy appended.
            (["9.9.9.9, 192.0.2.7"], "192.0.2.7"),
            (["9.9.9.9", "192.0.2.7"], "192.0.2.7"),
            (["10.9.9.9,192.0.2.7"], "192.0.2.7"),
            # A chain of our own proxies.
            (["9.9.9.9, 192.0.2.7, 10.0.0.3, 10.0.0.2"], "192.0.2.7"),
            (["192.0.2.7, 10.0.0.3", "10.0.0.2"], "192.0.2.7"),
            (["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            (["192.0.2.7 ,\t10.0.0.2 "], "192.0.2.7"),
            (["192.0.2.7,,, 10.0.0.2,"], "192.0.2.7"),
            ([",,"], PEER),
            # Ports and IPv6.
            (["192.0.2.7:4711"], "192.0.2.7"),
            (["2001:DB8::7"], "2001:db8::7"),
            (["[2001:db8::7]"], "2001:db8::7"),
            (["[2001:db8::7]:4711"], "2001:db8::7"),
            (["::ffff:192.0.2.7"], "192.0.2.7"),
            (["192.0.2.7, [fd00::2]:99"], "192.0.2.7"),
            (["192.0.2.7, ::ffff:10.0.0.2"], "192.0.2.7"),
            # Malformed: the proxy that reported it stands for the client.
            (["nobody"], PEER),
            (["unknown"], PEER),
            (["192.0.2.7, 10.0.0.3, unknown, 10.0.0.2"], "10.0.0.2"),
            (["192.0.2.7, 10.0.0.256"], PEER),
            (["192.0.2.07"], PEER),
            (["192.0.2.7:"], PEER),
            (["192.0.2.7:65536"], PEER),
            (["192.0.2.7:port"], PEER),
            (["[192.0.2.7]"], PEER),
            (["[2001:db8::7"], PEER),
            (["[2001:db8::7]x"], PEER),
            (["fe80::1%eth0"], PEER),
            (['"192.0.2.7"'], PEER),
            (["192.0.2.7 192.0.2.8"], PEER),
            (["\xb2\xb2"], PEER),
            (["for=192.0.2.7"], PEER),
        ],
    )
    def test_the_walk(self, lines: list[str], address: str) -> None:
        assert by_networks(*lines) == address

    def test_an_untrusted_peer_is_the_client(self) -> None:
        assert by_networks("9.9.9.9", peer="192.0.2.7") == "192.0.2.7"

    def test_the_other_header_is_not_read(self) -> None:
        given = scope("9.9.9.9", header="forwarded")
        given["headers"].append((b"x-forwarded-for", b"192.0.2.7"))
        assert TrustedProxies(OWN).client_address(given) == "192.0.2.7"
        given = scope("for=192.0.2.7", header="forwarded")
        given["headers"].append((b"x-forwarded-for", b"9.9.9.9"))
        assert TrustedProxies(OWN, header="forwarded").client_address(given) == "192.0.2.7"


class TestForwarded:
    @pytest.mark.parametrize(
        ("lines", "address"),
        [
            (["for=192.0.2.7"], "192.0.2.7"),
            (["For=192.0.2.7;proto=https;by=10.0.0.1"], "192.0.2.7"),
            (["proto=https ; FOR=192.0.2.7 ; host=h;"], "192.0.2.7"),
            ([';;for="192.0.2.7"'], "192.0.2.7"),
            (['for="192.0.2.7:4711"'], "192.0.2.7"),
            (['for="192.0.2.7:_port"'], "192.0.2.7"),
            (['for="[2001:db8::7]"'], "2001:db8::7"),
            (['for="[2001:db8::7]:4711";by="[fd00::1]"'], "2001:db8::7"),
            (['for="\\1\\9\\2.0.2.7"'], "192.0.2.7"),
            (["for=9.9.9.9, for=192.0.2.7"], "192.0.2.7"),
            (["for=192.0.2.7, for=10.0.0.3", 'for="[fd00::2]"'], "192.0.2.7"),
            (['for=192.0.2.7;x="a,b\\",\\\\", for=10.0.0.2;y="\\",for=8.8.8.8"'], "192.0.2.7"),
            # A quote that the client leaves open swallows nothing that a proxy wrote.
            (['for="9.9.9.9, for=192.0.2.7'], "192.0.2.7"),
            (['for=9.9.9.9;x="', "for=192.0.2.7"], "192.0.2.7"),
            (['x="\\', "for=192.0.2.7"], "192.0.2.7"),
            (['for=9.9.9.9;x="', 'for="192.0.2.7:1";by="_x"'], "192.0.2.7"),
            # Hidden, malformed or missing.
            (["for=unknown"], PEER),
            (["for=Unknown, for=10.0.0.2"], "10.0.0.2"),
            (["for=_hidden"], PEER),
            (['for="_hidden:_port"'], PEER),
            (["for=192.0.2.7, proto=https, for=10.0.0.2"], "10.0.0.2"),
            (["for=192.0.2.7;for=192.0.2.8"], PEER),
            (["for=192.0.2.7:4711"], PEER),
            (["for=[2001:db8::7]"], PEER),
            (["for=2001:db8::7"], PEER),
            (['for="2001:db8::7"'], PEER),
            (["for =192.0.2.7"], PEER),
            (["for= 192.0.2.7"], PEER),
            (["for=192.0.2.7 by=h"], PEER),
            (['for="192.0.2.7'], PEER),
            (['for="192.0.2.7"x'], PEER),
            (["for="], PEER),
            (["=192.0.2.7"], PEER),
            (["192.0.2.7"], PEER),
            (["for"], PEER),
        ],
    )
    def test_the_walk(self, lines: list[str], address: str) -> None:
        assert by_networks(*lines, header="forwarded") == address


class TestCount:
    def test_so_many_are_believed(self) -> None:
        line = "9.9.9.9, 192.0.2.7, 192.0.2.8"
        assert by_count(1, line) == "192.0.2.8"
        assert by_count(2, line) == "192.0.2.7"
        assert by_count(2, "for=9.9.9.9, for=192.0.2.7, for=_b", header="forwarded") == PEER

    def test_who_passed_fewer_is_the_last(self) -> None:
        assert by_count(3, "192.0.2.7") == "192.0.2.7"
        assert by_count(3) == PEER

    def test_with_networks_both_must_hold(self) -> None:
        trusted = TrustedProxies(OWN, count=2)
        assert trusted.client_address(scope("9.9.9.9, 10.0.0.3, 10.0.0.2")) == "10.0.0.3"
        # Who goes around the outer proxy doesn't become another by what he sends.
        assert trusted.client_address(scope("9.9.9.9, 192.0.2.7")) == "192.0.2.7"
        assert trusted.client_address(scope("9.9.9.9", peer="192.0.2.7")) == "192.0.2.7"


class TestUnixSocket:
    def test_it_has_no_address(self) -> None:
        assert by_networks("192.0.2.7", peer=None) is None

    def test_a_trusted_one_reports_one(self) -> None:
        given = scope("9.9.9.9, 192.0.2.7, 10.0.0.2", peer=None)
        assert TrustedProxies(("unix", *OWN)).client_address(given) == "192.0.2.7"
        assert TrustedProxies(("unix",)).client_address(given) == "10.0.0.2"
        assert TrustedProxies(count=2).client_address(given) == "192.0.2.7"
        assert TrustedProxies(("unix",)).client_address(scope("junk", peer=None)) is None


class TestBounds:
    @pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded"])
    def test_no_more_hops_than_can_be(self, header: Header) -> None:
        own = "for=10.0.0.9" if header == "forwarded" else "10.0.0.9"
        last = "for=10.0.0.77" if header == "forwarded" else "10.0.0.77"
        lines = ["1.2.3.4", *[own] * 50]
        lines[-MAX_HOPS] = last
        assert by_networks(*lines, header=header) == "10.0.0.77"

    @pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded"])
    def test_giants_are_cut(self, header: Header) -> None:
        own = "for=10.0.0.9" if header == "forwarded" else "10.0.0.9"
        assert by_networks("9" * MAX_BYTES + ".9.9.9", own, header=header) == "10.0.0.9"
        assert by_networks("," * MAX_BYTES, own, header=header) == "10.0.0.9"
        assert by_networks('"' * 2 * MAX_BYTES, own, header=header) == "10.0.0.9"
        # The element that is cut is not taken for what is left of it.
        if header == "x-forwarded-for":
            line = "8.8." + "9.9.9.9" + "," * (MAX_BYTES - 7)
            assert by_networks(line) == PEER


# The properties. Whatever stands left of what trusted proxies appended is the client's own.

ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)
CLIENTS = ADDRESSES.filter(lambda text: not any(_unmapped(text) in network for network in OWN))
OWN_ADDRESSES = st.one_of(
    st.ip_addresses(network="10.0.0.0/8"), st.ip_addresses(network="fd00::/8")
).map(str)
PIECES = st.sampled_from(
    [*'",;=\\ []:', "for=", 'for="', "9.9.9.9", "10.0.0.7", "[fd00::7]", "unknown", "_x", "\xff"]
)
CLAIMS = st.one_of(
    st.lists(PIECES, max_size=20).map("".join),
    st.binary(max_size=60).map(lambda value: value.decode("latin-1")),
    st.lists(OWN_ADDRESSES, max_size=4).map(", ".join),
    st.lists(OWN_ADDRESSES.map(lambda text: f'for="{text}"'), max_size=4).map(", ".join),
)


def _unmapped(text: str) -> IPv4Address | IPv6Address:
    address = ip_address(text)
    mapped: IPv4Address | None = getattr(address, "ipv4_mapped", None)
    return mapped or address


@st.composite
def appended(draw: st.DrawFn, addresses: Sequence[str], header: Header) -> list[str]:
    """What proxies append, each in one of the forms that are usual."""
    return [draw(_element(address, header)) for address in addresses]


def _element(address: str, header: Header) -> st.SearchStrategy[str]:
    bracketed = f"[{address}]" if ":" in address else address
    if header == "x-forwarded-for":
        return st.sampled_from([address, bracketed, f"{bracketed}:8080"])
    return st.sampled_from(
        [
            f'for="{bracketed}"',
            f'for="{bracketed}:8080";proto=https',
            f'by="_p,\\"q";for="{bracketed}"',
            f'host="a,for=9.9.9.9";FOR="{bracketed}:_x" ',
        ]
    )


@given(
    st.data(),
    st.sampled_from(["x-forwarded-for", "forwarded"]),
    st.lists(CLAIMS, max_size=4),
    CLIENTS,
    st.lists(OWN_ADDRESSES, max_size=4),
)
def test_a_client_behind_trusted_proxies_is_who_they_say(
    data: st.DataObject,
    header: Header,
    claims: list[str],
    client: str,
    proxies: list[str],
) -> None:
    """Nothing that a client sends changes who it is, by networks or by count."""
    reported = data.draw(appended([client, *proxies], header))
    lines = [", ".join([*claims, *reported])] if data.draw(st.booleans()) else [*claims, *reported]
    # The innermost proxy is the peer.
    trusted = TrustedProxies(OWN, header=header), TrustedProxies((), len(proxies) + 1, header)
    for trust in (*trusted, TrustedProxies(OWN, len(proxies) + 1, header)):
        assert trust.client_address(scope(*lines, header=header)) == str(_unmapped(client))


@given(
    st.sampled_from(["x-forwarded-for", "forwarded"]),
    st.lists(CLAIMS, max_size=6),
    st.integers(1, 4),
)
def test_what_does_not_parse_raises_nothing(header: Header, lines: list[str], count: int) -> None:
    for trust in (TrustedProxies(OWN, header=header), TrustedProxies((), count, header)):
        found = trust.client_address(scope(*lines, header=header))
        assert found is not None
        assert found == str(_unmapped(found))


class TestSettings:
    def test_they_are_read(self) -> None:
        environ = {
            "SARK_TRUSTED_PROXIES": "10.0.0.0/8, 192.0.2.1,fd00::/8,unix",
            "SARK_TRUSTED_PROXY_COUNT": "2",
            "SARK_PROXY_HEADER": "Forwarded",
        }
        trusted = TrustedProxies.of(load(environ))
        assert [*map(str, trusted.networks)] == ["10.0.0.0/8", "192.0.2.1/32", "fd00::/8", "unix"]
        assert (trusted.count, trusted.header) == (2, "forwarded")

    def test_by_default_nobody_is_trusted(self) -> None:
        assert TrustedProxies.of(load({})) == TrustedProxies()

    @pytest.mark.parametrize(
        "value", ["0.0.0.0/0", "::/0", "10.0.0.1/8", "10.0.0.0/33", "proxy", "*", "10.0.0.0/8,,"]
    )
    def test_the_whole_internet_is_not(self, value: str) -> None:
        with pytest.raises(SettingsError, match="SARK_TRUSTED_PROXIES: got"):
            load({"SARK_TRUSTED_PROXIES": value})

    def test_a_header_that_nobody_is_believed_in_is_a_mistake(self) -> None:
        with pytest.raises(SettingsError, match="SARK_PROXY_HEADER: got 'forwarded', expected"):
            load({"SARK_PROXY_HEADER": "forwarded"})
