"""PostgreSQL's replication protocol: a temporary slot, and what it decodes.

psycopg has no class for it; libpq's COPY_BOTH does (PostgreSQL documentation, "Streaming
Replication Protocol"). The slot lives as long as its connection, so nothing holds back the server's
log when a process is gone.
"""

from __future__ import annotations

import struct
import time

from everfresh.connect.wire import Wire

__all__ = ["Stream", "end_of_log", "lsn"]

_PAGE = 8192  # bytes of a page of the log (XLOG_BLCKSZ)
_HEADERS = (24, 40)  # bytes of a page's header, and of that of a segment's first page
_EPOCH = 946_684_800  # seconds from 1970 to 2000, where PostgreSQL's clock begins
# values are printed alike whatever the server's defaults
_SETTINGS = (
    "-c extra_float_digits=3 -c TimeZone=UTC -c bytea_output=hex -c DateStyle=ISO"
    " -c IntervalStyle=iso_8601 -c statement_timeout=0"
)


def lsn(text: str) -> int:
    """Return a position in the log as a number.

    >>> lsn("1/A0") == (1 << 32) + 160
    True
    """
    high, low = text.split("/")
    return (int(high, 16) << 32) + int(low, 16)


def end_of_log(insert: int) -> int:
    """Return where the last record ends at most, from where the next one will begin.

    The next may begin behind the header of a page that is still empty, which no record ends behind.

    >>> end_of_log(3 * 8192 + 24) == 3 * 8192, end_of_log(3 * 8192 + 100) == 3 * 8192 + 100
    (True, True)
    """
    behind = insert % _PAGE
    return insert - behind if behind in _HEADERS else insert


class Stream:
    """Read what a publication's tables change, from when it was made on.

    ``parameters`` connect to the database. Raises `ConnectionFailedError` when the server cannot
    be reached, does not decode (``wal_level``), or refuses the role; and whenever the line is lost.
    """

    def __init__(self, parameters: str, publication: str, *, timeout: float = 5.0) -> None:
        from psycopg.conninfo import make_conninfo

        made = make_conninfo(parameters, replication="database", options=_SETTINGS)
        self._wire = Wire(made, timeout=timeout)
        self.received = 0  # the position up to which all has come
        self._told_at = 0.0
        try:
            name = f"everfresh_{self._wire.rows('SELECT pg_backend_pid()')[0][0]}"
            self._wire.rows(
                f"CREATE_REPLICATION_SLOT {name} TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT"
            )
            self._wire.begin_copy(
                f"START_REPLICATION SLOT {name} LOGICAL 0/0"
                f" (proto_version '1', publication_names '{publication}')"
            )
        except BaseException:
            self._wire.close()
            raise

    def read(self, seconds: float, wake: int) -> list[bytes]:
        """Return the messages that came, waiting for the first at most this long.

        It does not wait any more once the file descriptor ``wake`` can be read.
        """
        found = []
        for data in self._wire.copied(seconds, wake):
            if data[:1] == b"w":
                found.append(data[25:])
                self.received = max(self.received, struct.unpack(">Q", data[1:9])[0])
            elif data[:1] == b"k":
                end, _, asked = struct.unpack(">QQB", data[1:18])
                self.received = max(self.received, end)
                if asked:
                    self.tell()
        if time.monotonic() - self._told_at > 5.0:
            self.tell()
        return found

    def tell(self, *, ask: bool = False) -> None:
        """Tell the server how far we are, which lets it drop its log; ``ask`` where it is."""
        now = int((time.time() - _EPOCH) * 1_000_000)
        position = self.received
        self._wire.copy(struct.pack(">cQQQQB", b"r", position, position, position, now, ask))
        self._told_at = time.monotonic()

    def close(self) -> None:
        """End the connection, and with it the slot."""
        self._wire.close()

    @property
    def lost(self) -> bool:
        """Whether nothing will come any more."""
        return self._wire.closed
