"""Patterns of texts: what they match, and that no text makes them slow."""

from __future__ import annotations

import re
import time

from hypothesis import given
from hypothesis import strategies as st

from sark.patterns import Patterns

texts = st.text("ab*\n", max_size=10)


@given(st.lists(texts, max_size=3), st.text("ab\n", max_size=12))
def test_a_star_stands_for_any_characters(patterns: list[str], text: str) -> None:
    spelled = [".*".join(map(re.escape, one.split("*"))) for one in patterns]
    expected = bool(text) and any(re.fullmatch(one, text, re.DOTALL) for one in spelled)
    assert Patterns(patterns).match(text) is expected


def test_no_text_makes_a_pattern_slow() -> None:
    pattern = Patterns(["/v1/*/orgs/*/repos/*/issues/*/x", "a*" * 120 + "b"])
    hostile = ["/v1/" + "/orgs/a/repos/b/issues/c" * 1400, "a" * 32_000]
    started = time.process_time()
    assert not any(map(pattern.match, hostile))
    assert time.process_time() - started < 0.5
