"""Rego policies and their data, read from a directory in OPA's layout.

``.rego`` files are modules (``*_test.rego`` are left out). ``.json``, ``.yaml`` and ``.yml`` files
are data: their place in the tree is their place below ``data``, as ``opa run`` does it, so
``org/data.json`` is ``data.org``. Files and directories whose name begins with a dot are skipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import yaml

from sark.errors import PolicyError

__all__ = ["RegoSource", "read_source"]

_DATA_SUFFIXES = {".json", ".yaml", ".yml"}


@dataclass(frozen=True, slots=True)
class RegoSource:
    """Everything that an engine needs, read at one moment.

    Attributes:
        root: The directory.
        modules: Path below the root and text of each module, sorted.
        data: The merged data document.
        revision: Digest of the names and contents of all files.
    """

    root: Path
    modules: tuple[tuple[str, str], ...]
    data: dict[str, Any]
    revision: str


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
            _merge(data, _placed(name, _parse(path, text)), path, "data")
        else:
            continue
        digest.update(f"{name}\n{len(text)}\n{text}\n".encode())
    if not modules:
        raise PolicyError(f"{root}: holds no .rego file")
    return RegoSource(root, tuple(modules), data, digest.hexdigest()[:16])


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"{path}: {error}") from None


def _parse(path: Path, text: str) -> Any:
    try:
        if path.suffix == ".json":
            return msgspec.json.decode(text)
        return yaml.safe_load(text)
    except (msgspec.MsgspecError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise PolicyError(f"{path}: {reason}") from None


def _placed(name: Path, document: Any) -> Any:
    """Put a document where its directory says; at the root it must be an object."""
    for part in reversed(name.parent.parts):
        document = {part: document}
    return document


def _merge(into: dict[str, Any], new: Any, path: Path, where: str) -> None:
    if not isinstance(new, dict):
        raise PolicyError(f"{path}: {where} is {type(new).__name__}, expected an object")
    for key, value in new.items():
        if not isinstance(key, str):
            raise PolicyError(f"{path}: {where} has the name {key!r}, expected a string")
        if key not in into:
            into[key] = value
        elif isinstance(into[key], dict) and isinstance(value, dict):
            _merge(into[key], value, path, f"{where}.{key}")
        else:
            raise PolicyError(f"{path}: {where}.{key} is defined by another file too")
