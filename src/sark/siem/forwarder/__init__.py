"""Carrying audit events from their queue to a sink."""

from sark.siem.forwarder.encoding import Encoder, encoder_of
from sark.siem.forwarder.forwarder import Forwarder
from sark.siem.forwarder.plan import Batching, ForwarderState, Guard, Permit

__all__ = ["Batching", "Encoder", "Forwarder", "ForwarderState", "Guard", "Permit", "encoder_of"]
