"""A bound on what a request has beside its body: request line, headers, trailers, framing.

uvicorn's fast parser keeps whatever arrives until a header ends, so a client that never ends one
could take any amount of memory. The bound is far above what is ever accepted: a token that is much
too long is still told so.
"""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["MAX_HEADER_BYTES", "BoundedHeaders"]

MAX_HEADER_BYTES = 2 * 2**20


class BoundedHeaders(HttpToolsProtocol):
    """Ends connections whose request passes ``MAX_HEADER_BYTES`` without its body, with 400."""

    _beside_body = 0

    def data_received(self, data: bytes) -> None:
        """Count what has arrived before it is parsed; the parser then gives the body back."""
        self._beside_body += len(data)
        if self._beside_body > MAX_HEADER_BYTES:
            self.send_400_response("The headers are too large.")
        else:
            super().data_received(data)

    def on_message_begin(self) -> None:
        """Count anew for each request on the connection."""
        self._beside_body = 0
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        """Leave bodies out: another limit bounds them."""
        self._beside_body -= len(body)
        super().on_body(body)
