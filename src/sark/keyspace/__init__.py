"""Every key that SARK writes, as one table, and the only functions that build key names.

The table is read by the code, the documentation (``sark keyspace``), memory analysis, metrics and
the doctor. Key names follow the guide; ids come from outside and are encoded, so that no id can
forge another key.

**Encoding of ids.** An id made of ``A-Z a-z 0-9 - _ . ~ @ + = , /`` stands as it is. Any other
byte of its UTF-8 form becomes ``%XX`` (so ``:``, ``{``, ``}``, ``*``, spaces, control and
non-ASCII characters never appear raw). What would exceed ``MAX_ENCODED_BYTES`` becomes ``#`` and
its SHA-256 in hex; ``#`` itself is always escaped. Two different ids therefore never share a form.

**Cluster.** One script may only touch keys of one slot. With ``cluster=True`` the builders put the
part that is named in the table's ``tag`` column in braces (a hash tag, see the Valkey cluster
specification); without it the names are exactly the guide's.
"""

from __future__ import annotations

from sark.keyspace.ids import MAX_ENCODED_BYTES, encode_id, encode_rule
from sark.keyspace.names import MAIN_SINK, Keyspace, SinkKeys
from sark.keyspace.table import TABLE, KeyPattern, Role, classify, is_permanent

__all__ = [
    "MAIN_SINK",
    "MAX_ENCODED_BYTES",
    "TABLE",
    "KeyPattern",
    "Keyspace",
    "Role",
    "SinkKeys",
    "classify",
    "encode_id",
    "encode_rule",
    "is_permanent",
]
