"""Agents' processes. Its standard input is a socket: each message names the cgroup of a new process, and
has the descriptors of its input, its output, and the network and mount namespaces that it is to be in; the
answer is the process's number. The process does what each line of its input says. An expression is answered
with its value, a statement after "do" with "done", and what the kernel refuses with the name of the error."""

import collections
import ctypes
import errno
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from socket import AF_INET, AF_INET6, SO_REUSEADDR, SO_REUSEPORT, SOL_SOCKET
from socket import SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, SOCK_STREAM

socket.setdefaulttimeout(20 * int(os.environ.get("AGENTGUARD_PATIENCE", "1")))


def family(address):
    return AF_INET6 if ":" in address else AF_INET


def tcp(address, port):
    """A TCP connection."""
    made = socket.socket(family(address), SOCK_STREAM)
    made.connect((address, port))
    return made


class Dialler:
    """Connects again and again, and keeps the last connections. Closing one resets it."""

    def __init__(self, address, port):
        self.opened = collections.deque(maxlen=60)
        self.going = True
        self.thread = threading.Thread(target=self.dial, args=(address, port))
        self.thread.start()

    def dial(self, address, port):
        while self.going:
            made = socket.socket(AF_INET, SOCK_STREAM)
            made.settimeout(0.2)
            try:
                made.setsockopt(SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                made.connect((address, port))
                self.opened.append(made)
            except OSError:
                pass

    def stop(self):
        self.going = False
        self.thread.join()


def udp(address, port):
    """A connected UDP socket that has sent nothing."""
    made = socket.socket(family(address), SOCK_DGRAM)
    made.connect((address, port))
    return made


def listener(address="127.0.0.1", port=0, bind=True, reuse=False):
    """A listening TCP socket, which need not be bound before."""
    made = socket.socket(family(address), SOCK_STREAM)
    made.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    if reuse:
        made.setsockopt(SOL_SOCKET, SO_REUSEPORT, 1)
    if bind:
        made.bind((address, port))
    made.listen()
    return made


def only6(kind, port, address="::"):
    made = socket.socket(socket.AF_INET6, kind)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.bind((address, port))
    return made


def port(made):
    return made.getsockname()[1]


def peer(made):
    """Address and port as `getpeername` tells them."""
    return "{} {}".format(*made.getpeername()[:2])


def heard(made):
    """A datagram and where it seems to come from."""
    data, source = made.recvfrom(2048)
    return "{} {} {}".format(data.decode(), *source[:2])


def queries(address, first, last):
    """Sends a query from each of an address's ports: how many were refused."""
    refused = 0
    for number in range(first, last):
        with socket.socket(AF_INET, SOCK_DGRAM) as made:
            made.bind((address, number))
            try:
                made.sendto(b"query", ("192.0.2.53", 53))
            except PermissionError:
                refused += 1
    return refused


def beginning(count):
    """Connections that nobody has accepted."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + 100, count + 100))
    made = [socket.socket(AF_INET, SOCK_STREAM) for _ in range(count)]
    for each in made:
        each.setblocking(False)
        each.connect_ex(("192.0.2.1", 80))
    return made


def lives(cgroup):
    """Enters a cgroup, connects and asks there, and leaves it for where it was."""
    with open(cgroup + "/cgroup.procs", "w") as procs:
        procs.write("0")
    with tcp("192.0.2.1", 80), socket.socket(AF_INET, SOCK_DGRAM) as asks:
        asks.sendto(b"query", ("192.0.2.53", 53))
    with open(home + "/cgroup.procs", "w") as procs:
        procs.write("0")


def races(addresses, elsewhere, port, seconds):
    """Sends over a socket while another process connects it to each address, and elsewhere after that."""
    made = udp(addresses[0], port)
    end = time.monotonic() + seconds
    child = os.fork()
    while time.monotonic() < end:
        for address in addresses:
            try:
                if child:
                    made.connect((address, port))
                    made.connect((elsewhere, port))
                else:
                    made.send(b"x")
            except OSError:
                pass
    if not child:
        os._exit(0)
    os.waitpid(child, 0)


def enter(cgroup, given, taken, network, mounts):
    """Becomes a process of its own, in a cgroup before anything else."""
    for namespace in (network, mounts):
        if ctypes.CDLL(None, use_errno=True).setns(namespace, 0):
            raise OSError(ctypes.get_errno(), "setns")
    with open(cgroup + "/cgroup.procs", "w") as procs:
        procs.write("0")
    os.dup2(given, 0)
    os.dup2(taken, 1)
    os.closerange(3, taken + 10)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    sys.stdin, sys.stdout = open(0), open(1, "w")


def born():
    """Makes processes until nobody asks any more. The cgroup, in each of them."""
    # Nobody waits for them.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(fileno=os.dup(0)) as asked:
        while True:
            cgroup, descriptors, _, _ = socket.recv_fds(asked, 4096, 4)
            if not cgroup:
                sys.exit()
            child = os.fork()
            if not child:
                asked.detach()
                enter(cgroup.decode(), *descriptors)
                return cgroup.decode()
            for descriptor in descriptors:
                os.close(descriptor)
            asked.send(str(child).encode())


home = born()
names = globals()
for line in sys.stdin:
    try:
        if line.startswith("do "):
            exec(line[3:], names)
            answer = "done"
        else:
            answer = eval(line, names)
    except TimeoutError:
        answer = "timeout"
    except OSError as error:
        answer = errno.errorcode[error.errno]
    except Exception as error:
        answer = repr(error)
    print(str(answer).replace("\n", " "), flush=True)
