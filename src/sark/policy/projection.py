"""What part of a request's context a policy sees.

The evaluator receives exactly the fields that the cache's key is made of, so one function cuts the
context for both. A field is named by its path, ``("trace", "id")``. A path goes through arrays: it
concerns every object in them, so that a field cannot be slipped past by wrapping it.

Contexts come from outside. Beyond the depth that a question accepts they are left as they are, and
refused when the question is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from sark.policy.question import MAX_CONTEXT_DEPTH, JsonValue

__all__ = ["Context", "Everything", "FieldPath", "Only", "Projection", "Without", "with_vouched"]

FieldPath = tuple[str, ...]
Tree = dict[str, "Tree"]
"""Names with what is named below them: nothing where a path ends."""

Context = dict[str, JsonValue]


class Projection(Protocol):
    """Cuts contexts. What it is given is never changed."""

    paths: tuple[FieldPath, ...]

    def __call__(self, context: Context) -> Context:
        """Return the part that the policy sees."""
        ...

    def passes(self, vouched: frozenset[str]) -> Callable[[Context], bool]:
        """Return a quick test by the outermost names: this context needs no cutting.

        Args:
            vouched: Names that only the service may set, so that a context with them does not pass.
        """
        ...


class Everything:
    """Lets the whole context through."""

    paths: tuple[FieldPath, ...] = ()

    def __call__(self, context: Context) -> Context:
        """Return the context."""
        return context

    def passes(self, vouched: frozenset[str]) -> Callable[[Context], bool]:
        """See ``Projection``."""
        return vouched.isdisjoint


class Without:
    """Takes the named fields out; what is left of the objects around them stays, also if empty.

    Args:
        paths: None of them within another one.
    """

    def __init__(self, paths: Iterable[FieldPath]) -> None:
        self.paths = tuple(paths)
        self._tree = _tree(self.paths)

    def __call__(self, context: Context) -> Context:
        """Return the context without the fields; the same object if it has none of them."""
        return _object_without(context, self._tree, MAX_CONTEXT_DEPTH)

    def passes(self, vouched: frozenset[str]) -> Callable[[Context], bool]:
        """See ``Projection``."""
        return vouched.union(self._tree).isdisjoint


class Only:
    """Keeps the named fields, and of what is around them only what leads there.

    Args:
        paths: None of them within another one.
    """

    def __init__(self, paths: Iterable[FieldPath]) -> None:
        self.paths = tuple(paths)
        self._tree = _tree(self.paths)

    def __call__(self, context: Context) -> Context:
        """Return the fields that the context has."""
        return _object_of(context, self._tree, MAX_CONTEXT_DEPTH)

    def passes(self, vouched: frozenset[str]) -> Callable[[Context], bool]:
        """See ``Projection``."""
        kept_whole = frozenset(name for name, below in self._tree.items() if not below)
        return (kept_whole - vouched).issuperset


def _tree(paths: Iterable[FieldPath]) -> Tree:
    root: Tree = {}
    for path in paths:
        below = root
        for name in path:
            below = below.setdefault(name, {})
    return root


def _without(value: JsonValue, tree: Tree, levels: int) -> JsonValue:
    if levels == 0:
        return value
    if isinstance(value, dict):
        return _object_without(value, tree, levels)
    if isinstance(value, list):
        kept = [_without(item, tree, levels - 1) for item in value]
        return kept if any(a is not b for a, b in zip(kept, value, strict=True)) else value
    return value


def _object_without(context: Context, tree: Tree, levels: int) -> Context:
    kept = context
    for name, below in tree.items():
        if name not in context:
            continue
        cut = _without(context[name], below, levels - 1) if below else None
        if below and cut is context[name]:
            continue
        if kept is context:
            kept = dict(context)
        if below:
            kept[name] = cut
        else:
            del kept[name]
    return kept


def _only(value: JsonValue, tree: Tree, levels: int) -> JsonValue:
    """Cut a value in which the named fields are; None when it has none of them."""
    if levels == 0 and isinstance(value, dict | list):
        return value
    if isinstance(value, dict):
        return _object_of(value, tree, levels) or None
    if isinstance(value, list):
        found = (_only(item, tree, levels - 1) for item in value)
        return [item for item in found if item is not None] or None
    return None


def _object_of(context: Context, tree: Tree, levels: int) -> Context:
    kept: Context = {}
    for name, below in tree.items():
        if name not in context:
            continue
        if not below:
            kept[name] = context[name]
        elif (cut := _only(context[name], below, levels - 1)) is not None:
            kept[name] = cut
    return kept


def with_vouched(context: Context, name: str, value: str | None) -> Context:
    """Put what the service vouches for in the place of whatever the caller claims about it."""
    if value is not None:
        return {**context, name: value}
    if name not in context:
        return context
    return {other: item for other, item in context.items() if other != name}
