"""A TCP proxy whose line can be cut, can go silent, and can lose an answer, as networks do."""

import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Proxy:
    """Forwards connections to a server on loopback. The address to connect to is `.port` on 127.0.0.1."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._open = threading.Event()  # cleared: nothing is forwarded, in either direction
        self._open.set()
        self._refusing = False
        self._closed = False
        self._fatal: bytes | None = None
        self.lost = threading.Event()
        """Set when `lose_answer_to` has struck."""
        self._threads = [threading.Thread(target=self._accept, name="proxy-accept")]
        self._threads[0].start()

    def cut(self) -> None:
        """Reset every connection, once. New ones are welcome unless `refuse` was called."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def refuse(self) -> None:
        """Cut, and hang up on whoever comes, as when the server is down."""
        self._refusing = True
        self.cut()

    def hang(self) -> None:
        """Forward nothing from now on, and keep every connection open."""
        self._open.clear()

    def restore(self) -> None:
        """Be a good line again."""
        self._refusing = False
        self._open.set()

    def lose_answer_to(self, request: bytes) -> None:
        """The next request that contains these bytes reaches the server; in place of its answer, the line is cut."""
        self.lost.clear()
        self._fatal = request

    def close(self) -> None:
        """Cut all and listen no more."""
        self._closed = True
        self.restore()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._refusing:
                client.close()
                continue
            self._open.wait()
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            with self._lock:
                self._pairs.append((client, server))
            thread = threading.Thread(target=self._forward, args=(client, server), name="proxy-forward")
            self._threads.append(thread)
            thread.start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        fatal = False
        with client, server, selectors.DefaultSelector() as selector:
            for end in (client, server):
                selector.register(end, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    source = client if key.fileobj is client else server
                    try:
                        data = source.recv(65536)
                        self._open.wait()
                        if not data:
                            return
                        if source is server and fatal:
                            self.lost.set()
                            return
                        if source is client and self._fatal is not None and self._fatal in data:
                            fatal, self._fatal = True, None
                        (server if source is client else client).sendall(data)
                    except OSError:
                        return


@contextmanager
def proxy_to(port: int) -> Iterator[Proxy]:
    """A proxy in front of that port."""
    proxy = Proxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
