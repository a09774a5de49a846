"""What a client really sent: a relay between it and the server that passes bytes on and keeps the messages.

Clients that connect to a URL come by a port, bridges by a socket in a data directory of their own. Nothing is changed but
the port in the request's head, which the server checks. Ports have five digits, so not even a length changes.
"""

import json
import re
import socket
import threading

ENVELOPE = "io.modelcontextprotocol/protocolVersion"
PATIENCE = 100  # seconds; more than any step takes


class Relay:
    """Listens on a port of its own, in front of a server on 127.0.0.1:`port`, and at a socket, in front of its socket."""

    def __init__(self, port, own_port, path, own_path):
        self.port, self.own_port = port, own_port
        self.lock = threading.Lock()
        self.messages, self.answers = [], b""
        by_port = socket.create_server(("127.0.0.1", own_port))
        by_path = socket.socket(socket.AF_UNIX)
        by_path.bind(str(own_path))
        by_path.listen()
        for listener, connect in (
            (by_port, lambda: socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)),
            (by_path, lambda: connect_to(path)),
        ):
            threading.Thread(target=self._accept, args=(listener, connect), daemon=True).start()

    def take(self):
        """Messages of clients and bytes of answers since the last time."""
        with self.lock:
            taken = self.messages, self.answers
            self.messages, self.answers = [], b""
        return taken

    def _accept(self, listener, connect):
        while True:
            client, _ = listener.accept()
            threading.Thread(target=self._serve, args=(client, connect), daemon=True).start()

    def _serve(self, client, connect):
        client.settimeout(PATIENCE)
        try:
            server = connect()
        except OSError:
            client.close()
            return
        for one in (client, server):
            if one.family != socket.AF_UNIX:
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=self._copy_back, args=(server, client), daemon=True).start()
        try:
            while request := self._read_request(client):
                server.sendall(request)
            server.shutdown(socket.SHUT_WR)
        except OSError:
            hang_up(server)
            hang_up(client)

    def _read_request(self, client):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = client.recv(1)
            if not byte:
                return b""
            head += byte
        head = head.replace(b":%d" % self.own_port, b":%d" % self.port)
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        body, missing = b"", int(length[1]) if length else 0
        while len(body) < missing:
            block = client.recv(missing - len(body))
            if not block:
                return b""
            body += block
        if body:
            with self.lock:
                self.messages.append(json.loads(body))
        return head + body

    def _copy_back(self, server, client):
        try:
            while block := server.recv(65536):
                with self.lock:
                    self.answers += block
                client.sendall(block)
        except OSError:
            pass
        hang_up(server)
        hang_up(client)


def connect_to(path):
    """A connection to a Unix socket."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(PATIENCE)
    connection.connect(str(path))
    return connection


def hang_up(connection):
    """Ends a connection for both threads that use it."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


# What only finds out which era there is belongs to none.
PROBES = ("server/discover", "initialize")


def eras(messages, answers):
    """The revisions that requests were made in: that of their envelope, or else the one the handshake agreed on."""
    agreed = re.findall(rb'"protocolVersion": ?"([^"]+)"', answers)
    found, has_shaken = set(), False
    for message in (message for message in messages if isinstance(message, dict) and "id" in message):
        if message.get("method") in PROBES:
            has_shaken |= message["method"] == "initialize"
            continue
        meta = message.get("params", {}).get("_meta", {})
        found.add(meta.get(ENVELOPE) or (agreed[-1].decode() if agreed else "none"))
    if not found and has_shaken and agreed:
        found.add(agreed[-1].decode())
    return found
