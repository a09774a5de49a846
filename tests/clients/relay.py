"""What a client really sent: a relay between it and the server that passes bytes on and keeps the messages.

Nothing is changed but the port in the request's head, which the server checks. Ports have five digits, so not even a
length changes.
"""

import json
import re
import socket
import threading

ENVELOPE = "io.modelcontextprotocol/protocolVersion"
PATIENCE = 100  # seconds; more than any step takes


class Relay:
    """Listens on a port of its own, in front of a server on 127.0.0.1:`port`."""

    def __init__(self, port, own_port):
        self.port, self.own_port = port, own_port
        self.lock = threading.Lock()
        self.messages, self.answers = [], b""
        self.listener = socket.create_server(("127.0.0.1", own_port))
        threading.Thread(target=self._accept, daemon=True).start()

    def take(self):
        """Messages of clients and bytes of answers since the last time."""
        with self.lock:
            taken = self.messages, self.answers
            self.messages, self.answers = [], b""
        return taken

    def _accept(self):
        while True:
            client, _ = self.listener.accept()
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        client.settimeout(PATIENCE)
        try:
            server = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        except OSError:
            client.close()
            return
        for one in (client, server):
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
