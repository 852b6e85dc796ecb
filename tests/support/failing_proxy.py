"""A proxy on loopback before a server, which can be gone for a while, or answer with errors.

To a client, a server that was killed and started again is one whose connections end and which refuses new ones for some
time. Behind the proxy moto's server keeps its objects, which are in memory, through that.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

__all__ = ["FailingProxy", "failing_proxy"]

BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class FailingProxy:
    """Passes bytes on in both directions."""

    def __init__(self, port: int) -> None:
        self._server = port
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._answers_busy = False
        self._listener: socket.socket | None = None
        self.port = 0
        self.start()

    def start(self) -> None:
        """Listen, on the same port as before."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(128)
        self.port, self._listener = listener.getsockname()[1], listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def kill(self) -> None:
        """End all connections, as they are, and refuse new ones until `start`."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # ends the `accept` under way
            self._listener.close()
            self._listener = None
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def gone(self, seconds: float = 0.0) -> Iterator[None]:
        """Be killed during the block, and for so many seconds at least."""
        self.kill()
        try:
            yield
            time.sleep(seconds)
        finally:
            self.start()

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Answer everything with 503 during the block."""
        self._answers_busy = True
        try:
            self.kill()
            self.start()
            yield
        finally:
            self._answers_busy = False

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            if self._answers_busy:
                client.recv(65536)
                client.sendall(BUSY)
                return
            with socket.create_connection(("127.0.0.1", self._server)) as server, self._noted(client, server):
                back = threading.Thread(target=_copy, args=(server, client), daemon=True)
                back.start()
                _copy(client, server)
                back.join()

    @contextlib.contextmanager
    def _noted(self, *connections: socket.socket) -> Iterator[None]:
        with self._lock:
            self._open.update(connections)
        try:
            yield
        finally:
            with self._lock:
                self._open.difference_update(connections)


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Pass on until either side ends, and end the other."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for each in (source, target):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def failing_proxy(port: int) -> Iterator[FailingProxy]:
    """Run a proxy before the server at a port until the end of the block."""
    proxy = FailingProxy(port)
    try:
        yield proxy
    finally:
        proxy.kill()
