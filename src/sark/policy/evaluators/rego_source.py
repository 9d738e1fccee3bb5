"""Rego policies and their data, read from a directory in OPA's layout.

``.rego`` files are modules (``*_test.rego`` are left out). ``.json``, ``.yaml`` and ``.yml`` files
are data: their place in the tree is their place below ``data``, as ``opa run`` does it, so
``org/data.json`` is ``data.org``. Files and directories whose name begins with a dot are skipped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from sark.errors import PolicyError

__all__ = ["RegoSource", "read_source"]

# Hexadecimal digits of a revision: 128 bits, as of keys and more than of stamps.
REVISION_DIGITS = 32
# Of JSON, for one call of the engine; see ``RegoSource.pieces``.
PIECE_BYTES = 2**18
_DATA_SUFFIXES = {".json", ".yaml", ".yml"}
_BYTE = re.compile(r" \(byte (?P<offset>\d+)\)$")


@dataclass(frozen=True, slots=True)
class RegoSource:
    """Everything that an engine needs, read at one moment.

    Attributes:
        root: The directory.
        modules: Path below the root and text of each module, sorted.
        pieces: JSON objects that make up the data document when they are merged, none large unless
            a single list or text is: an engine can take one at a time.
        revision: Digest of the names and contents of all files.
        data: The data document, to check it; empty when another process has done so.
        data_files: Each data file with what it contributes to ``data``; likewise.
    """

    root: Path
    modules: tuple[tuple[str, str], ...]
    pieces: tuple[str, ...]
    revision: str
    data: dict[str, Any] = field(default_factory=dict)
    data_files: tuple[tuple[Path, Any], ...] = ()

    def where(self, path: Sequence[str]) -> Path:
        """Name the first file that contributes what stands at ``path``, for a message."""
        return next((file for file, data in self.data_files if _holds(data, path)), self.root)


def read_source(root: Path) -> RegoSource:
    """Read a policy directory.

    Raises:
        PolicyError: No directory, no module in it, or a file that cannot be read or merged; the
            message names the file.
    """
    if not root.is_dir():
        raise PolicyError(f"{root}: no such directory; SARK_POLICY_DIR names the Rego policies")
    modules: list[tuple[str, str]] = []
    data: dict[str, Any] = {}
    data_files: list[tuple[Path, Any]] = []
    digest = sha256()
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if any(part.startswith(".") for part in name.parts) or not path.is_file():
            continue
        if path.suffix == ".rego" and not path.name.endswith("_test.rego"):
            text = _read(path)
            modules.append((str(name), text))
        elif path.suffix in _DATA_SUFFIXES:
            text = _read(path)
            document = _placed(name, _parse(path, text))
            data_files.append((path, document))
            _merge(data, document, path, "data")
        else:
            continue
        digest.update(f"{name}\n{len(text)}\n{text}\n".encode())
    if not modules:
        raise PolicyError(f"{root}: holds no .rego file")
    revision = digest.hexdigest()[:REVISION_DIGITS]
    pieces = tuple(piece.decode() for piece in in_pieces(data))
    return RegoSource(root, tuple(modules), pieces, revision, data, tuple(data_files))


def in_pieces(data: dict[str, Any], size: int = PIECE_BYTES) -> Iterator[bytes]:
    """Write an object as JSON objects that make it up when they are merged.

    Args:
        data: What to write.
        size: Bytes from which a piece is complete. One is longer only by its last member, and a
            member is longer than that only when it is no object.
    """
    members: list[bytes] = []
    length = 0
    for name, value in data.items():
        key, text = msgspec.json.encode(name), msgspec.json.encode(value)
        if len(text) > size and isinstance(value, dict):
            yield from (b"{%b:%b}" % (key, piece) for piece in in_pieces(value, size))
            continue
        members.append(b"%b:%b" % (key, text))
        length += len(members[-1])
        if length >= size:
            yield b"{%b}" % b",".join(members)
            members, length = [], 0
    if members or not data:
        yield b"{%b}" % b",".join(members)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"{path}: {error}") from None


def _parse(path: Path, text: str) -> Any:
    document = _parse_json(path, text) if path.suffix == ".json" else _parse_yaml(path, text)
    try:
        _check(document, path, "data")
    except RecursionError:
        raise PolicyError(f"{path}: data is nested too deeply, or in itself") from None
    return document


def _parse_json(path: Path, text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except RecursionError:
        raise PolicyError(f"{path}: data is nested too deeply") from None
    except msgspec.MsgspecError as error:
        reason, where = str(error), str(path)
        if at := _BYTE.search(reason):
            reason = reason[: at.start()]
            line = text.encode()[: int(at["offset"])].count(b"\n") + 1
            where = f"{path}:{line}"
        raise PolicyError(f"{where}: {reason}") from None


def _parse_yaml(path: Path, text: str) -> Any:
    import yaml  # part of the extra that brings the engine

    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        reason = " ".join(part for part in (error.context, error.problem) if part)
        raise PolicyError(f"{where}: {' '.join(reason.split())}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise PolicyError(f"{path}: {' '.join(str(error).split())}") from None


def _check(value: Any, path: Path, where: str) -> None:
    """Refuse what YAML has and JSON has not; the encoder would fail on it or turn it into null."""
    if isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str):
                raise PolicyError(f"{path}: {where} has the name {name!r}; quote it")
            _check(item, path, f"{where}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check(item, path, f"{where}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise PolicyError(f"{path}: {where} is {value}, expected a finite number")


def _placed(name: Path, document: Any) -> Any:
    """Put a document where its directory says; at the root it must be an object."""
    for part in reversed(name.parent.parts):
        document = {part: document}
    return document


def _merge(into: dict[str, Any], new: Any, path: Path, where: str) -> None:
    if not isinstance(new, dict):
        raise PolicyError(f"{path}: {where} is {type(new).__name__}, expected an object")
    for key, value in new.items():
        if key not in into:
            into[key] = value
        elif isinstance(into[key], dict) and isinstance(value, dict):
            _merge(into[key], value, path, f"{where}.{key}")
        else:
            raise PolicyError(f"{path}: {where}.{key} is defined by another file too")


def _holds(data: Any, path: Sequence[str]) -> bool:
    for part in path:
        if not isinstance(data, dict) or part not in data:
            return False
        data = data[part]
    return True
