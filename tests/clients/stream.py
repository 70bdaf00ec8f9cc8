"""Asks a model for streams of events, each on a connection of its own: NAME ADDRESS PORT COUNT. Prints the medians, in
microseconds, of how long it took to find the address, then until the first event was there, and of how old events were
when they came."""

import json
import socket
import ssl
import statistics
import sys
import time

name, address, port, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
CONTENT = json.dumps({
    "model": "gpt-5",
    "stream": True,
    "messages": [{"role": "user", "content": "Say something."}],
}).encode()
REQUEST = (
    f"POST /v1/chat/completions HTTP/1.1\r\nHost: {name}\r\nX-Stamp: 1\r\nConnection: close\r\n"
    f"Authorization: Bearer sk-test\r\nContent-Type: application/json\r\nContent-Length: {len(CONTENT)}\r\n\r\n"
).encode() + CONTENT

# What comes to no end is one for who waits for this.
socket.setdefaulttimeout(20)
context = ssl.create_default_context()
found, first, ages = [], [], []
for _ in range(count):
    asked = time.monotonic_ns()
    *_, place = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
    begun = time.monotonic_ns()
    found.append((begun - asked) / 1000)
    with socket.create_connection(place[:2]) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(plain, server_hostname=name) as stream:
            stream.sendall(REQUEST)
            rest, status, began, ended = b"", b"", False, False
            while came := stream.recv(65536):
                now = time.monotonic_ns()
                *lines, rest = (rest + came).split(b"\n")
                for line in lines:
                    status = status or line
                    ended = ended or b"[DONE]" in line
                    if not line.startswith(b": "):
                        continue
                    if not began:
                        began = True
                        first.append((now - begun) / 1000)
                    ages.append((now - int(line[2:])) / 1000)
            if not (b" 200 " in status and began and ended):
                sys.exit(f"no whole stream came, but {status!r} and at last {rest!r}")
print(json.dumps({
    "found": statistics.median(found), "first": statistics.median(first), "event": statistics.median(ages),
    "events": len(ages),
}))
