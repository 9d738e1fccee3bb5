"""The spill store: a well-kept local database for audit events that Valkey does not take."""

from sark.siem.spill.account import SpillStatus
from sark.siem.spill.folder import SpillFolder
from sark.siem.spill.replay import Replay
from sark.siem.spill.store import PutBack, Spill

__all__ = ["PutBack", "Replay", "Spill", "SpillFolder", "SpillStatus"]
