"""1,000 attempts of ten kinds, from eight threads. Prints as JSON what was attempted, as counts of
`KIND VERDICT PLACE`, and ends with 1 where an attempt came to another end than it should have."""
import collections
import concurrent.futures
import http.client
import json
import random
import socket
import ssl
import sys
import threading
import time

SITE = "api.example.com"
TLS = ssl.create_default_context()
attempted = collections.Counter()
wrong = []
lock = threading.Lock()


# An agent may ask the resolver some 1,000 things in a second: not more names than half of that, each of
# which is asked for in both versions of IP.
PACE = 0.004
asked = 0.0


def paced():
    global asked
    with lock:
        asked = max(asked + PACE, time.monotonic())
        wait = asked - time.monotonic()
    time.sleep(max(wait, 0))


def note(*attempts):
    with lock:
        attempted.update(attempts)


def query(name, verdict):
    paced()
    return f"dns_query {verdict} {name}:53"


def tls():
    note(query(SITE, "allow"), f"connect allow {SITE}:443")
    with socket.create_connection((SITE, 443), timeout=20) as plain:
        with TLS.wrap_socket(plain, server_hostname=SITE) as s:
            s.sendall(b"GET /bytes/9 HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n")
            answer = b""
            while piece := s.recv(4096):
                answer += piece
            return answer.endswith(b"x" * 9)


def request(method, verdict, status):
    note(query(SITE, "allow"), f"http_request {verdict} {SITE}:80")
    connection = http.client.HTTPConnection(SITE, timeout=20)
    connection.request(method, "/bytes/9")
    reply = connection.getresponse()
    reply.read()
    connection.close()
    return reply.status == status


def get():
    return request("GET", "allow", 200)


def delete():
    return request("DELETE", "deny", 403)


def several():
    """Three requests on one connection, the second of them denied."""
    note(query(SITE, "allow"))
    connection = http.client.HTTPConnection(SITE, timeout=20)
    statuses = []
    for method, verdict in [("GET", "allow"), ("PUT", "deny"), ("GET", "allow")]:
        note(f"http_request {verdict} {SITE}:80")
        connection.request(method, "/bytes/9", headers={"Content-Length": "0"})
        reply = connection.getresponse()
        reply.read()
        statuses.append(reply.status)
    connection.close()
    return statuses == [200, 403, 200]


def direct():
    name = "direct.example.com"
    note(query(name, "allow"), f"connect allow {name}:7")
    with socket.create_connection((name, 7), timeout=20) as s:
        s.sendall(b"ping")
        return s.recv(4) == b"ping"


def datagram():
    name = "direct.example.com"
    note(query(name, "allow"), f"datagram allow {name}:7")
    found = socket.getaddrinfo(name, 7, socket.AF_UNSPEC, socket.SOCK_DGRAM)
    family, _, _, _, place = random.choice(found)
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.settimeout(20)
        if random.random() < 0.5:
            s.connect(place)
            s.send(b"ping")
        else:
            s.sendto(b"ping", place)
        return s.recv(4) == b"ping"


def denied_name(name):
    def attempt():
        note(query(name, "deny"))
        try:
            socket.getaddrinfo(name, 443)
        except socket.gaierror:
            return True
    return attempt


def shown(ip):
    ip = ip.removeprefix("::ffff:")
    return f"[{ip}]" if ":" in ip else ip


def denied_tcp(family, ip):
    def attempt():
        note(f"connect deny {shown(ip)}:443")
        with socket.socket(family, socket.SOCK_STREAM) as s:
            try:
                s.connect((ip, 443))
            except PermissionError:
                return True
    return attempt


def denied_udp(family, ip, connected):
    def attempt():
        note(f"datagram deny {shown(ip)}:443")
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            try:
                if connected:
                    s.connect((ip, 443))
                    s.send(b"x")
                else:
                    s.sendto(b"x", (ip, 443))
            except PermissionError:
                return True
    return attempt


ADDRESSES = [
    (socket.AF_INET, "192.0.2.66"),
    (socket.AF_INET6, "2001:db8:113::66"),
    (socket.AF_INET6, "::ffff:192.0.2.66"),
    (socket.AF_INET, "203.0.113.16"),
]
NAMES = ["www.paste.example", "elsewhere.example.net", "nowhere.invalid"]

# As they come from a program that does many things, and then as from one that repeats itself.
mixed = [tls] * 90 + [get] * 90 + [delete] * 50 + [several] * 20 + [direct] * 40 + [datagram] * 30
mixed += [denied_name(name) for name in NAMES] * 20
mixed += [denied_tcp(*address) for address in ADDRESSES] * 10
mixed += [denied_udp(*address, connected) for address in ADDRESSES for connected in (False, True)] * 5
random.Random(1).shuffle(mixed)
burst = [denied_tcp(*ADDRESSES[0])] * 90 + [denied_udp(*ADDRESSES[0], False)] * 60
burst += [denied_name(NAMES[0])] * 30


def run(attempt):
    try:
        fine = attempt()
    except Exception as error:
        fine = error
    if fine is not True:
        with lock:
            wrong.append(repr(fine))


with concurrent.futures.ThreadPoolExecutor(8) as pool:
    list(pool.map(run, mixed))
for attempt in burst:
    run(attempt)
json.dump(attempted, sys.stdout)
print("\n".join(wrong), file=sys.stderr)
sys.exit(1 if wrong else 0)
