"""What the kernel says of processes, read from ``/proc``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["ProcessState", "command_line", "group_members", "is_gone", "parent_of"]


@dataclass(frozen=True)
class ProcessState:
    """One line of ``/proc/<pid>/stat``."""

    state: str
    parent: int
    group: int


def read_state(pid: int) -> ProcessState | None:
    """Read a process's state; None when there is none of that id."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may hold anything, spaces and parentheses too.
    state, parent, group = line.rpartition(")")[2].split()[:3]
    return ProcessState(state, int(parent), int(group))


def is_gone(pid: int) -> bool:
    """Whether a process has ended, be it reaped or not."""
    found = read_state(pid)
    return found is None or found.state == "Z"


def parent_of(pid: int) -> int:
    """Find the parent of a running process."""
    found = read_state(pid)
    assert found is not None, f"process {pid} runs"
    return found.parent


def group_members(group: int) -> list[int]:
    """List the living processes of a group."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    states = {pid: read_state(pid) for pid in pids}
    return [
        pid for pid, s in states.items() if s is not None and s.group == group and s.state != "Z"
    ]


def command_line(pid: int) -> str:
    """Read the arguments that a process shows to everybody."""
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
