"""A Rego program for the embedded engine: loaded, checked, evaluated on any thread.

An engine may only be used, and dropped, by the thread that made it (regorus panics otherwise), so
each thread builds its own from the same source. The engine holds the interpreter's lock all the
time, so that a thread beside the event loop's would hold that up as well. What can be done instead
is to let it take its data in pieces, and do other things in between.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
import weakref
from collections.abc import Iterator
from itertools import count
from time import perf_counter
from typing import Any, Self

import msgspec

from sark.errors import ConfigurationError, EvaluationError, PolicyError
from sark.policy.evaluators.rego_source import RegoSource

__all__ = ["RegoProgram"]

# Each thread's engines by number of their program. Not an attribute of the program, which would
# take the engines of all threads along when one of them drops it.
_engines = threading.local()
_numbers = count()

# For less than this nobody is let through in between.
TURN_SECONDS = 0.002

# An input with the fields of every question, to find out at load what only shows on evaluation.
_EMPTY_INPUT = '{"action":"","context":{},"resource":"","user_id":""}'
_LOCATION = re.compile(r"-->\s*(?P<file>.+?):(?P<line>\d+):(?P<column>\d+)")
_REASON = re.compile(r"^error: (?P<reason>.+)$", re.MULTILINE)
# Errors that no input can excuse; others may be due to the empty input.
_MISTAKE = re.compile(r"unsafe|could not find function|recursion detected|rule conflicts with")
_NO_SUCH_RULE = "not a valid rule path"
# What the engine answers for a rule without value. No decision looks like it: they are objects.
_UNDEFINED = '"<undefined>"'
# A rule with a reference for its head, such as ``decision.allow := true``.
_PARTS_OF_DECISION = re.compile(r"^\s*(?:default\s+)?decision\s*[.\[]", re.MULTILINE)


class _Held:
    """Holds an engine, so that its own thread can drop it whoever else still holds this.

    Frames in a traceback live for as long as the exception, and may be collected by any thread.
    """

    __slots__ = ("engine",)

    def __init__(self, engine: Any) -> None:
        self.engine = engine


class _Expression(msgspec.Struct):
    value: msgspec.Raw


class _Row(msgspec.Struct):
    expressions: list[_Expression]


class _QueryResult(msgspec.Struct):
    # Left out by the engine when the query is undefined.
    result: list[_Row] = []


_decode = msgspec.json.Decoder(_QueryResult).decode


class RegoProgram:
    """Modules and data, checked.

    Args:
        source: What to load.
        policies: Names of the policies; each must define ``decision``.
        held: This thread's engine, if it has the source already.

    Raises:
        PolicyError: Something does not load; the message names file, line and reason.
        ConfigurationError: The engine is not installed.
    """

    def __init__(
        self, source: RegoSource, policies: tuple[str, ...], held: _Held | None = None
    ) -> None:
        self.source = source
        self._number = str(next(_numbers))
        if held is not None:
            _engines.__dict__[self._number] = (weakref.ref(self), held)
        # Evaluating a rule is a quarter cheaper than a query, but a decision that is put together
        # from parts is no rule to the engine.
        self._in_parts: set[str] = set()
        self._check(policies)

    @classmethod
    async def in_turns(cls, source: RegoSource, policies: tuple[str, ...]) -> Self:
        """Load as the constructor does, and leave the event loop half of the time meanwhile.

        What it holds up at a time is one piece of data, one module, or the check.
        """
        return cls(source, policies, await _load_in_turns(source))

    def evaluate(self, policy: str, input_json: bytes) -> bytes | str | None:
        """Evaluate ``data.sark.<policy>.decision``.

        Args:
            policy: Name of the policy.
            input_json: The ``input`` document.

        Returns:
            The value as JSON; None when it is undefined.

        Raises:
            EvaluationError: The engine reported an error, or panicked.
        """
        held = self._held()
        path = f"data.sark.{policy}.decision"
        try:
            held.engine.set_input_json(input_json.decode())
            if policy in self._in_parts:
                rows = _decode(held.engine.eval_query_as_json(path)).result
                return bytes(rows[0].expressions[0].value) if rows else None
            document: str = held.engine.eval_rule_as_json(path)
        except BaseException as error:  # noqa: BLE001 - a panic of the engine is a BaseException
            raise _evaluation_error(policy, error) from None
        return None if document == _UNDEFINED else document

    def _held(self) -> _Held:
        engines = _engines.__dict__
        if self._number not in engines:
            for number in [n for n, (owner, _) in engines.items() if owner() is None]:
                engines.pop(number)[1].engine = None
            engines[self._number] = (weakref.ref(self), _load(self.source))
        held: _Held = engines[self._number][1]
        return held

    def _check(self, policies: tuple[str, ...]) -> None:
        """Evaluate every entry point: unsafe variables only show then.

        Without any input first, when nothing is excused; then with the empty one, which gets
        further but may break a builtin that a real input would not.
        """
        held = self._held()
        try:
            for policy in policies:
                self._try(held, policy, re.compile(""))
            held.engine.set_input_json(_EMPTY_INPUT)
            for policy in policies:
                self._try(held, policy, _MISTAKE)
        except PolicyError:
            held.engine = None
            raise

    def _try(self, held: _Held, policy: str, fatal: re.Pattern[str]) -> None:
        path = f"data.sark.{policy}.decision"
        try:
            if policy in self._in_parts:
                held.engine.eval_query_as_json(path)
            else:
                held.engine.eval_rule_as_json(path)
        except RuntimeError as error:
            text = str(error)
            if text.startswith(_NO_SUCH_RULE):
                self._accept_parts(policy)
            elif fatal.search(text):
                raise _policy_error(self.source, text) from None

    def _accept_parts(self, policy: str) -> None:
        package = re.compile(rf"^package\s+sark\.{policy}(?:\.decision)?\s*$", re.MULTILINE)
        for _, text in self.source.modules:
            found = package.search(text)
            if found and (".decision" in found[0] or _PARTS_OF_DECISION.search(text)):
                self._in_parts.add(policy)
                return
        raise PolicyError(
            f"{self.source.root}: no rule data.sark.{policy}.decision; "
            f"SARK_POLICIES names the policy {policy!r}"
        )


def _load(source: RegoSource) -> _Held:
    held = _new_engine()
    try:
        for _ in _fill(held, source):
            pass
    except PolicyError:
        held.engine = None
        raise
    return held


async def _load_in_turns(source: RegoSource) -> _Held:
    held = _new_engine()
    try:
        begun = perf_counter()
        for _ in _fill(held, source):
            spent = perf_counter() - begun
            if spent > TURN_SECONDS:
                await asyncio.sleep(spent)
                begun = perf_counter()
    except BaseException:
        held.engine = None
        raise
    return held


def _new_engine() -> _Held:
    # Errors of the engine carry a backtrace otherwise, which takes tens of milliseconds to make.
    os.environ.setdefault("RUST_LIB_BACKTRACE", "0")
    try:
        import regorus
    except ImportError:
        raise ConfigurationError(
            "the embedded Rego engine is not installed: pip install 'sark[embedded]'"
        ) from None
    return _Held(regorus.Engine())


def _fill(held: _Held, source: RegoSource) -> Iterator[None]:
    """Give an engine everything, a step at a time."""
    for name, text in source.modules:
        try:
            held.engine.add_policy(name, text)
        except RuntimeError as error:
            raise _policy_error(source, str(error)) from None
        yield
    _refuse_shadowed(held, source)
    for piece in source.pieces:
        try:
            held.engine.add_data_json(piece)
        except RuntimeError as error:
            raise PolicyError(f"{source.root}: data: {str(error).splitlines()[0]}") from None
        yield


def _refuse_shadowed(held: _Held, source: RegoSource) -> None:
    """Refuse data where a rule stands: the engine would silently answer with the data instead.

    Args:
        held: Has the modules, but no data yet.
        source: Where both come from.
    """
    for package in held.engine.get_packages():
        path, found = [], source.data
        for part in package.split(".")[1:]:
            path.append(part)
            found = found.get(part, {})
            if not isinstance(found, dict):
                raise PolicyError(
                    f"{source.where(path)}: {'.'.join(path)} is data and also a package"
                )
        for name in found:
            if _is_rule(held, f"{package}.{name}"):
                raise PolicyError(
                    f"{source.where([*path, name])}: "
                    f"{'.'.join([*path, name])} is data and also a rule"
                )


def _is_rule(held: _Held, path: str) -> bool:
    try:
        held.engine.eval_rule_as_json(path)
    except RuntimeError as error:
        return not str(error).startswith(_NO_SUCH_RULE)
    return True


def _policy_error(source: RegoSource, text: str) -> PolicyError:
    """Turn the engine's report, a drawing with a backtrace, into one line."""
    location, reason = _LOCATION.search(text), _REASON.search(text)
    why = reason["reason"] if reason else text.split("\n\nStack backtrace", 1)[0].strip()
    why = " ".join(why.split())
    if location is None:
        return PolicyError(f"{source.root}: {why}")
    file = source.root / location["file"]
    return PolicyError(f"{file}:{location['line']}:{location['column']}: {why}")


def _evaluation_error(policy: str, error: BaseException) -> BaseException:
    if isinstance(error, KeyboardInterrupt | SystemExit | asyncio.CancelledError):
        return error
    location, reason = _LOCATION.search(str(error)), _REASON.search(str(error))
    why = reason["reason"] if reason else str(error).split("\n", 1)[0]
    at = f" at {location['file']}:{location['line']}" if location else ""
    return EvaluationError(f"data.sark.{policy}.decision: {why}{at}")
