"""Does what the test says, line by line: each line of the file named by the first argument is a
Python expression, whose value is printed as one line of JSON. It is a client like any other, which
lives as long as the test wants and keeps what it has opened."""

import ctypes
import errno
import json
import os
import queue
import random
import socket
import ssl
import sys
import threading

socket.setdefaulttimeout(10 * int(os.environ.get("AGENTGUARD_PATIENCE", "1")))
kept = {}
poured = {}
apart = {}
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6, 46: socket.AF_INET6}


def make(name, family, kind, protocol=0):
    """A socket, kept under a name."""
    kept[name] = socket.socket(family, kind, protocol)
    return "made"


def of(name):
    return kept[name]


def tcp(name, address, port):
    """Connects to an address that is dialled as it stands."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    make(name, family, socket.SOCK_STREAM)
    kept[name].connect((address, port))
    return list(kept[name].getpeername()[:2])


def udp(name, address):
    """An unconnected UDP socket of the address's family."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return make(name, family, socket.SOCK_DGRAM)


def connect(name, address, port):
    kept[name].connect((address, port))
    return "connected"


def part(name):
    """Ends a connection so that the socket can begin another: connect(2) to AF_UNSPEC."""
    nowhere = ctypes.create_string_buffer(16)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.connect(kept[name].fileno(), nowhere, 16) != 0:
        raise OSError(ctypes.get_errno(), "connect")
    return "parted"


def resolve(host, family):
    """The addresses of a name, of the family 4 or 6."""
    found = socket.getaddrinfo(host, None, FAMILIES[family], socket.SOCK_STREAM)
    return [address[4][0] for address in found]


def say(name, text):
    kept[name].sendall(text.encode())
    return len(text)


def say_to(name, text, address, port):
    return kept[name].sendto(text.encode(), (address, port))


def hear(name, most=65536):
    return kept[name].recv(most).decode(errors="replace")


def hear_from(name):
    text, peer = kept[name].recvfrom(65536)
    return [text.decode(errors="replace"), peer[0], peer[1]]


def hear_all(name):
    """Everything up to the other side's end of data."""
    told = b""
    while piece := kept[name].recv(65536):
        told += piece
    return told.decode(errors="replace")


def echo(name, text):
    """Says something to an echo server and gives what comes back."""
    kept[name].sendall(text.encode())
    told = b""
    while len(told) < len(text) and (piece := kept[name].recv(65536)):
        told += piece
    return told.decode(errors="replace")


def echo_many(name, size):
    """As `echo`, with so many bytes that no side keeps them all; whether they came back as they were."""
    sent = random.Random(size).randbytes(size)
    says = threading.Thread(target=kept[name].sendall, args=(sent,))
    says.start()
    told = bytearray()
    while len(told) < size and (piece := kept[name].recv(65536)):
        told += piece
    says.join()
    return told == sent


def talk(address, port, sent, finish=False):
    """Sends these bytes (hexadecimal) and gives what comes back until the other side ends it, with
    the error that ended it, if one did."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    told = b""
    with socket.socket(family, socket.SOCK_STREAM) as stream:
        stream.connect((address, port))
        try:
            stream.sendall(bytes.fromhex(sent))
            if finish:
                stream.shutdown(socket.SHUT_WR)
            while piece := stream.recv(65536):
                told += piece
        except OSError as error:
            # A reset meets a read, a write, or the end of writing, whichever comes first after it.
            if error.errno not in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN):
                raise
            return [told.decode(errors="replace"), "reset"]
    return [told.decode(errors="replace"), "closed"]


def client_hello(host):
    """What a TLS client says first."""
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(into, out, server_hostname=host)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return out.read()


def piecemeal(name, message):
    """Sends byte by byte, each in a packet of its own."""
    kept[name].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in message:
        kept[name].sendall(bytes([byte]))
    return "sent"


def tls(name, host, family=4):
    """A TLS connection to a name over IPv4 or 6, by what the environment makes us trust."""
    make(name, FAMILIES[family], socket.SOCK_STREAM)
    kept[name].connect((resolve(host, family)[0], 443))
    kept[name] = ssl.create_default_context().wrap_socket(kept[name], server_hostname=host)
    return "connected"


def pour(name, piece):
    """Sends this again and again, without waiting for it, until that fails."""

    def pouring():
        try:
            while True:
                kept[name].sendall(piece)
        except OSError as error:
            poured[name] = name_of(error)

    threading.Thread(target=pouring, daemon=True).start()
    return "begun"


def dry(name):
    """The error that ended a pouring; null while it goes on."""
    return poured.get(name)


def close(name):
    kept.pop(name).close()
    return "closed"


def listen(name, address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    make(name, family, socket.SOCK_STREAM)
    kept[name].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if port is not None:
        kept[name].bind((address, port))
    kept[name].listen(8)
    return kept[name].getsockname()[1]


def accept(listener, name):
    kept[name], peer = kept[listener].accept()
    return peer[0] if peer else None


def get(host, path="/"):
    """A plain HTTP request; the answer's status line."""
    with socket.create_connection((host, 80)) as stream:
        head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        stream.sendall(head.encode())
        answer = b""
        while piece := stream.recv(65536):
            answer += piece
    return answer.decode(errors="replace").split("\r\n")[0]


def alone(name):
    """A thread that shares its descriptors with no other, and does what `on` says."""
    asked, answers = apart[name] = queue.SimpleQueue(), queue.SimpleQueue()

    def serving():
        CLONE_FILES = 0x400
        answers.put(ctypes.CDLL(None).unshare(CLONE_FILES))
        while True:
            try:
                answers.put(asked.get()())
            except OSError as error:
                answers.put(error)

    threading.Thread(target=serving, daemon=True).start()
    return answers.get()


def on(name, what):
    asked, answers = apart[name]
    asked.put(what)
    answer = answers.get()
    if isinstance(answer, OSError):
        raise answer
    return answer


def name_of(error):
    if isinstance(error, socket.gaierror):
        numbers = {v: k for k, v in vars(socket).items() if k.startswith("EAI_")}
        return numbers.get(error.errno, str(error))
    if isinstance(error, ssl.SSLError):
        return type(error).__name__
    if isinstance(error, TimeoutError):
        return "timeout"
    return errno.errorcode.get(error.errno, str(error))


with open(sys.argv[1]) as orders:
    for order in orders:
        try:
            value = eval(order)
        except OSError as error:
            value = {"error": name_of(error)}
        except Exception as error:  # The test is told, and decides.
            value = {"fault": repr(error)}
        print(json.dumps(value), flush=True)
