"""Reaching Valkey: connections, pools, the guard, scripts, roles of servers, the embedded server.

Nothing outside this package knows how many servers there are or how they are reached.
"""

from sark.store.clock import ServerClock
from sark.store.deadline import Deadline
from sark.store.exchange import Argument, Reply, ScriptCall
from sark.store.scripts import Script, load_script
from sark.store.server import Server
from sark.store.stats import PoolStats
from sark.store.store import Store, StoreHealth
from sark.store.topology import Topology

__all__ = [
    "Argument",
    "Deadline",
    "PoolStats",
    "Reply",
    "Script",
    "ScriptCall",
    "Server",
    "ServerClock",
    "Store",
    "StoreHealth",
    "Topology",
    "load_script",
]
