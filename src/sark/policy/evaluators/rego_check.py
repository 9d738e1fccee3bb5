"""Reading and checking policies in a process of their own.

To parse megabytes of data and to compile modules takes hundreds of milliseconds, in which a thread
would hold the interpreter's lock. So a running service lets another process do it: broken policies
cost its event loop nothing, and of good ones only the loading itself.

The process is ``python -m sark.policy.evaluators.rego_check DIRECTORY POLICY...``. It writes one
MessagePack document to its standard output.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import msgspec

from sark.errors import PolicyError
from sark.policy.evaluators.rego_program import RegoProgram
from sark.policy.evaluators.rego_source import RegoSource, read_source

__all__ = ["read_checked"]

CHECK_SECONDS = 60.0


class _Good(msgspec.Struct, tag="good"):
    modules: tuple[tuple[str, str], ...]
    pieces: tuple[str, ...]
    revision: str


class _Refused(msgspec.Struct, tag="refused"):
    reason: str


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Good | _Refused).decode


async def read_checked(root: Path, policies: tuple[str, ...]) -> RegoSource:
    """Read a policy directory, and check that it loads, in another process.

    Args:
        root: The directory.
        policies: Names of the policies; each must define ``decision``.

    Raises:
        PolicyError: It does not load, as ``RegoProgram`` says; or not within ``CHECK_SECONDS``.
    """
    process = await asyncio.create_subprocess_exec(
        # Without the working directory on the path: what lies there is not ours.
        *(sys.executable, "-P", "-m", __name__, str(root), *policies),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            output, errors = await process.communicate()
    except TimeoutError:
        raise PolicyError(f"{root}: not loaded and checked within {CHECK_SECONDS:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        lines = errors.decode(errors="replace").splitlines() or ["no output"]
        raise PolicyError(f"{root}: the check ended with {process.returncode}: {lines[-1][:200]}")
    found = _decode(output)
    if isinstance(found, _Refused):
        raise PolicyError(found.reason)
    return RegoSource(root, found.modules, found.pieces, found.revision)


def _checked(root: Path, policies: tuple[str, ...]) -> _Good | _Refused:
    try:
        source = read_source(root)
        RegoProgram(source, policies)
    except PolicyError as error:
        return _Refused(str(error))
    except OSError as error:
        # A directory that is being replaced, say.
        return _Refused(f"{error.filename}: {error.strerror}")
    return _Good(source.modules, source.pieces, source.revision)


if __name__ == "__main__":
    sys.stdout.buffer.write(_encode(_checked(Path(sys.argv[1]), tuple(sys.argv[2:]))))
