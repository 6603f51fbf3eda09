"""A port before a server, for tests of what happens when the line between them fails.

::

    with Relay("127.0.0.1", 5432) as relay:
        url = url.set(port=relay.port)
        relay.cut()      # ends what is open and takes nothing more, until mend()
        relay.pause()    # passes nothing on, and says nothing of it, until mend()
        relay.delay = 0.2
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress

from everfresh.kernel.closing import Closing

__all__ = ["Relay"]


class Relay(Closing):
    """Pass connections on to a server, and break them as networks do.

    ``delay`` is how long every piece is held back, in seconds.
    """

    def __init__(self, host: str, port: int) -> None:
        self.delay = 0.0
        self._target = (host, port)
        self._refusing = False
        self._flowing = threading.Event()
        self._flowing.set()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, name="relay", daemon=True).start()

    def cut(self) -> None:
        """End every connection and refuse new ones."""
        self._refusing = True
        self.drop()

    def drop(self) -> None:
        """End every connection; new ones are taken."""
        for pair in self._pairs:
            for end in pair:
                _shut(end)
        self._pairs.clear()

    def pause(self) -> None:
        """Pass nothing on, while every connection stays open."""
        self._flowing.clear()

    def mend(self) -> None:
        """Pass everything on again."""
        self._refusing = False
        self._flowing.set()

    def close(self) -> None:
        """Stop, and end what is open."""
        self.cut()
        self._flowing.set()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                if self._refusing:
                    client.close()
                    continue
                server = socket.create_connection(self._target)
            except OSError:
                if self._listener.fileno() < 0:
                    return
                continue  # the server is not there: the client finds its connection closed
            self._pairs.append((client, server))
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._flowing.wait()
                if self.delay:
                    time.sleep(self.delay)
                sink.sendall(data)
        for end in (source, sink):
            _shut(end)


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
