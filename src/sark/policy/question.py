"""A question put to a policy, and the key under which its decision is cached.

The key is derived from exactly the bytes that the evaluator receives as ``input``: the canonical
JSON of ``{action, context, resource, user_id}``, with object members sorted by name at any depth,
prefixed with the policy's name. So no key can omit an input that a decision depends on, and two
different questions cannot share a key: ``1``, ``1.0``, ``"1"`` and ``true`` have different JSON
forms, and Unicode text is neither normalised nor escaped.

In this process a question is known by its text, which is that object with the policy as its first
member: a dictionary compares texts exactly, and hashes them in a fraction of the time that SHA-256
takes. Long ones are known by their digest, so that who keeps many of them keeps no contexts.
"""

from __future__ import annotations

import math
from hashlib import sha256

import msgspec

from sark.errors import InvalidRequestError

__all__ = [
    "MAX_CONTEXT_BYTES",
    "MAX_CONTEXT_DEPTH",
    "MAX_ID_BYTES",
    "JsonValue",
    "Question",
    "check_context",
    "check_size",
    "check_text",
]

MAX_ID_BYTES = 256
MAX_CONTEXT_BYTES = 16_384
# Beyond it a digest stands for the question. No question's own bytes are as few as a digest's.
MAX_KEY_BYTES = 512
MAX_CONTEXT_DEPTH = 8

_NOT_UNICODE = "is not valid Unicode (a lone surrogate)"

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]

_NAMES = frozenset({str})
_SCALARS = frozenset({str, int, bool, type(None)})

_NO_CONTEXT: dict[str, JsonValue] = {}

# Members of a context are sorted; those of ``Asked`` stay in the order in which they are declared.
_encode = msgspec.json.Encoder(order="deterministic").encode
_INPUT = b'"action":'  # begins with it; inside a policy's name the quotes would be escaped


class Asked(msgspec.Struct, frozen=True, gc=False):
    """A policy's name, and what the policy sees as ``input``, sorted by name."""

    policy: str
    action: str
    context: dict[str, JsonValue]
    resource: str
    user_id: str


class Question(msgspec.Struct, frozen=True, gc=False):
    """Who wants to do what to what, under which circumstances.

    Build it with ``ask``, which checks the fields.

    Attributes:
        policy: Name of the policy that decides.
        user_id: The user.
        action: The action, such as ``server:read``.
        text: Canonical JSON of the policy's name and of what the policy sees.
        key: Stands for the text in this process; equal for equal questions only.
    """

    policy: str
    user_id: str
    action: str
    text: bytes
    key: bytes

    @classmethod
    def ask(
        cls,
        policy: str,
        user_id: str,
        action: str,
        resource: str,
        context: dict[str, JsonValue] | None = None,
    ) -> Question:
        """Check the fields of a question and derive its key.

        Raises:
            InvalidRequestError: A field is empty, too long, not Unicode or not JSON.
        """
        # Spelled out, because it is on the path of a decision that takes two microseconds in all.
        if not (
            type(user_id) is str
            and user_id
            and type(action) is str
            and action
            and type(resource) is str
            and resource
        ):
            _check_texts(user_id, action, resource)
        if context is None:
            context = _NO_CONTEXT
        elif context or type(context) is not dict:
            check_context(context)
        try:
            text = _encode(Asked(policy, action, context, resource, user_id))
        except UnicodeEncodeError:
            _check_texts(user_id, action, resource)
            raise InvalidRequestError("context", _NOT_UNICODE) from None
        except (TypeError, ValueError) as error:
            # Subclasses of str or int, and numbers of thousands of digits.
            raise InvalidRequestError("", f"has no JSON form: {error}") from None
        if len(text) <= MAX_ID_BYTES:
            # So nothing in it is too long.
            return cls(policy, user_id, action, text, text)
        _check_texts(user_id, action, resource)
        if len(text) > MAX_CONTEXT_BYTES:
            check_size(context)
        key = text if len(text) <= MAX_KEY_BYTES else sha256(text).digest()
        return cls(policy, user_id, action, text, key)

    @property
    def input(self) -> bytes:
        """Canonical JSON of what the policy sees; cut out of the text at each call."""
        return b"{" + self.text[self.text.index(_INPUT) :]

    @property
    def digest(self) -> bytes:
        """SHA-256 of policy and input, for the key in Valkey; derived at each call."""
        return sha256(b"%b\n%b" % (self.policy.encode(), self.input)).digest()


def _check_texts(user_id: object, action: object, resource: object) -> None:
    check_text("user_id", user_id)
    check_text("action", action)
    check_text("resource", resource)


def check_text(field: str, value: object) -> None:
    """Refuse what is no text of 1 to ``MAX_ID_BYTES`` bytes.

    Raises:
        InvalidRequestError: It names the field, what came and what was expected.
    """
    if not isinstance(value, str):
        raise InvalidRequestError(field, f"got {type(value).__name__}, expected a string")
    if not value:
        raise InvalidRequestError(field, "got an empty string, expected at least one character")
    size = len(value)
    if not value.isascii():
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise InvalidRequestError(field, _NOT_UNICODE) from None
    if size > MAX_ID_BYTES:
        raise InvalidRequestError(
            field, f"got {size} bytes, expected at most {MAX_ID_BYTES} bytes of UTF-8"
        )


def check_context(context: object) -> None:
    """Refuse a context that is no JSON object, or nested too deeply; see ``Question.ask``."""
    if (
        type(context) is dict
        and _NAMES.issuperset(map(type, context))
        and _SCALARS.issuperset(map(type, context.values()))
    ):
        return  # flat, as most are: seen in a tenth of the time that the walk takes
    if not isinstance(context, dict):
        raise InvalidRequestError("context", f"got {type(context).__name__}, expected an object")
    _check_json(context, "context", MAX_CONTEXT_DEPTH)


def check_size(context: object) -> None:
    """Refuse a context of more than ``MAX_CONTEXT_BYTES`` of JSON."""
    size = len(_encode(context))
    if size > MAX_CONTEXT_BYTES:
        raise InvalidRequestError(
            "context", f"got {size} bytes of JSON, expected at most {MAX_CONTEXT_BYTES}"
        )


def _check_json(value: object, path: str, depth: int) -> None:
    """Refuse what has no JSON form of its own: the encoder would turn NaN into null, say."""
    if isinstance(value, str | bool | int) or value is None:
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidRequestError(path, f"got {value}, expected a finite number")
        return
    if depth == 0:
        raise InvalidRequestError(path, f"is nested deeper than {MAX_CONTEXT_DEPTH} levels")
    if isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str):
                kind = type(name).__name__
                raise InvalidRequestError(path, f"has a name of type {kind}, expected strings")
            _check_json(item, f"{path}.{name}", depth - 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_json(item, f"{path}[{index}]", depth - 1)
    else:
        raise InvalidRequestError(path, f"got {type(value).__name__}, expected a JSON value")
