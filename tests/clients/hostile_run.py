"""Says to the keeper's socket (the first argument) what no client of it would say. Prints one line
for each attempt: what it was, and the first bytes of the answer."""

import array
import fcntl
import os
import socket
import sys


def number(value):
    """A varint, as postcard has it."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


def text(value):
    return number(len(value)) + value


def run(agent=b"coder", user=None, arguments=1, variables=0, tail=b""):
    """`Command::Run`."""
    user = b"\0" if user is None else b"\1" + text(user)
    words = number(arguments) + number(variables) + number(0o22) + number(0)
    return b"\0" + text(agent) + user + b"\0" * 5 + b"\0" + b"\0" + words + b"\0" + tail


def strings(content, seal=True):
    file = os.memfd_create("strings", os.MFD_ALLOW_SEALING)
    os.write(file, content)
    if seal:
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, 15)
    return file


def attempt(what, message, files=()):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as keeper:
        keeper.settimeout(10)
        keeper.connect(sys.argv[1])
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))]
        try:
            keeper.sendmsg([message], rights if files else [])
            answer = keeper.recv(65536)
        except OSError as error:
            answer = repr(error).encode()
    print(what, "->", answer[:1].hex(), answer.decode(errors="replace").replace("\n", " "))


null = os.open("/dev/null", os.O_RDWR)
root = os.open("/", os.O_PATH)
usual = [null, null, null, root]
attempt("nothing that is a message", b"\xff" * 100)
attempt("an unknown command", number(77))
attempt("a message with a surplus", run() + b"surplus", usual + [strings(b"true\0")])
attempt("a string of 4 GiB", b"\0" + number(0xFFFFFFFF) + b"x")
attempt("a packet of 100 kB", b"\0" * 100_000)
attempt("an agent that is a path", run(b"../../coder"), usual + [strings(b"true\0")])
attempt("an agent that is none", run(b"nobody"), usual + [strings(b"true\0")])
attempt("no descriptors", run())
attempt("one descriptor", run(), [null])
attempt("200 descriptors", run(), [null] * 200)
attempt("strings that can change", run(), usual + [strings(b"true\0", seal=False)])
attempt("strings that are a directory", run(), usual + [root])
attempt("strings that are /dev/zero", run(), usual + [os.open("/dev/zero", os.O_RDONLY)])
attempt("fewer strings than said", run(arguments=5), usual + [strings(b"true\0")])
attempt("4 billion strings", run(arguments=0xFFFFFFFF), usual + [strings(b"true\0")])
attempt("no arguments", run(arguments=0), usual + [strings(b"")])
attempt("a string without an end", run(), usual + [strings(b"true")])
attempt("a user that is none", run(user=b"no such user"), usual + [strings(b"true\0")])
attempt("a directory that is a file", run(), [null] * 4 + [strings(b"true\0")])
# Clients that say nothing, and go.
idle = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(200)]
for client in idle:
    client.connect(sys.argv[1])
for client in idle:
    client.close()
