"""A connection for messages that nobody acknowledges.

Syslog has no answer, so what can be known of a batch comes from TCP. The functions here block,
because only then is it known what the kernel took. A batch counts as sent when

1. the peer had not closed the connection before,
2. the kernel took all of it,
3. the peer's kernel acknowledged all of it (known on Linux only), and
4. the peer neither closed nor reset the connection for a moment after that.

A peer that is killed later, with the batch unread in its socket, takes it along. To know that it
was read, a connection has to end: with ``confirm`` each batch has its own, and counts when the peer
has closed it in turn. A peer that ends with something unread resets it instead.
"""

from __future__ import annotations

import fcntl
import select
import socket
import ssl
import struct
import sys
import termios
from contextlib import suppress
from time import monotonic, sleep

__all__ = ["SyslogStream"]

GRACE_SECONDS = 0.01
SHORTEST_LOOK_SECONDS, LONGEST_LOOK_SECONDS = 0.0005, 0.02
READ_BYTES = 65_536
MOST_READS = 64

_BROKEN_OFF = (ConnectionError, ssl.SSLEOFError)


class SyslogStream:
    """A connection that is kept, opened again when it is gone. One caller at a time.

    Args:
        host: Name or address of the receiver.
        port: Its port.
        context: For TLS; the certificate has to be for ``host``.
        confirm: Whether each batch has a connection of its own, and counts once the peer has read
            it to the end.
    """

    def __init__(
        self, host: str, port: int, *, context: ssl.SSLContext | None, confirm: bool = False
    ) -> None:
        self._address = (host, port)
        self._context = context
        self._confirm = confirm
        self._socket: socket.socket | None = None

    def send(self, data: bytes, *, timeout: float) -> None:
        """Send whole messages.

        Args:
            data: The messages, framed.
            timeout: Seconds for everything together, the connecting included.

        Raises:
            OSError: Some may not have arrived; ``TimeoutError`` and ``ssl.SSLError`` are among
                these. The connection is closed, so that the next begins with a whole message.
        """
        deadline = monotonic() + timeout
        try:
            self._send(data, deadline)
        except BaseException:
            self._drop()
            raise

    def close(self) -> None:
        """Close the connection in order, so that the peer can read what is still on its way."""
        if self._socket is not None:
            # A socket with something unread in it would be reset instead.
            with suppress(OSError, ValueError):
                _has_ended(self._socket)
                if isinstance(self._socket, ssl.SSLSocket):
                    self._socket.unwrap()
        self._drop()

    def _send(self, data: bytes, deadline: float) -> None:
        connection = self._kept() or self._connect(deadline)
        try:
            _write(connection, data, deadline)
            if self._confirm:
                _end(connection, deadline)
                self._drop()
            else:
                _settle(connection, deadline)
        except _BROKEN_OFF:
            # It may have said why before that, such as that it refuses our certificate.
            with suppress(*_BROKEN_OFF):
                _has_ended(connection)
            raise

    def _kept(self) -> socket.socket | None:
        """Give the connection of earlier batches, unless it is gone."""
        with suppress(OSError):
            if self._socket is not None and not _has_ended(self._socket):
                return self._socket
        self._drop()
        return None

    def _drop(self) -> None:
        connection, self._socket = self._socket, None
        if connection is not None:
            connection.close()

    def _connect(self, deadline: float) -> socket.socket:
        plain = socket.create_connection(self._address, timeout=_left(deadline))
        self._socket = plain
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self._context is None:
            return plain
        plain.settimeout(_left(deadline))
        # From here on the wrapper owns the connection, and closes it when the handshake fails.
        self._socket = self._context.wrap_socket(plain, server_hostname=self._address[0])
        return self._socket


def _write(connection: socket.socket, data: bytes, deadline: float) -> None:
    view = memoryview(data)
    while view:
        connection.settimeout(_left(deadline))
        view = view[connection.send(view) :]


def _settle(connection: socket.socket, deadline: float) -> None:
    """Wait until the peer's kernel has everything, and a moment longer.

    Raises:
        OSError: The connection broke, or the peer closed it: what it had read is not known.
    """
    pause = SHORTEST_LOOK_SECONDS
    while _unacknowledged(connection):
        if _has_ended(connection):
            raise ConnectionResetError("it closed the connection")
        _left(deadline)
        sleep(pause)
        pause = min(pause * 2, LONGEST_LOOK_SECONDS)
    readable = select.poll()
    readable.register(connection, select.POLLIN)
    if readable.poll(GRACE_SECONDS * 1000) and _has_ended(connection):
        raise ConnectionResetError("it closed the connection")


def _end(connection: socket.socket, deadline: float) -> None:
    """Say that nothing follows, and wait until the peer closes.

    Raises:
        OSError: It did not, or reset the connection: then it has not read everything.
    """
    connection.settimeout(_left(deadline))
    plain = connection
    if isinstance(connection, ssl.SSLSocket):
        # Some close without the notice that TLS asks for; a reset is told apart all the same.
        with suppress(ssl.SSLEOFError):
            plain = connection.unwrap()
    with suppress(ssl.SSLEOFError):
        plain.shutdown(socket.SHUT_WR)
        while plain.recv(READ_BYTES):
            plain.settimeout(_left(deadline))


def _has_ended(connection: socket.socket) -> bool:
    """Tell whether the peer has closed the connection; what it says is thrown away.

    Raises:
        OSError: The connection is broken.
    """
    connection.settimeout(0)
    with suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return not all(connection.recv(READ_BYTES) for _ in range(MOST_READS))
    return False


def _unacknowledged(connection: socket.socket) -> int:
    """Count the bytes that the peer's kernel has not acknowledged; 0 where that can't be known."""
    if sys.platform != "linux":
        return 0
    # SIOCOUTQ, which has the number of TIOCOUTQ.
    answer = fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4))
    return int(struct.unpack("i", answer)[0])


def _left(deadline: float) -> float:
    """Tell how many seconds are left.

    Raises:
        TimeoutError: None.
    """
    left = deadline - monotonic()
    if left <= 0:
        raise TimeoutError
    return left
