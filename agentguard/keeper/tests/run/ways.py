"""Ways around the gate, one function each: prints for each what became of it.

Takes the pid of a process of the same user, and the name of an abstract socket of its.
"""

import ctypes
import errno
import fcntl
import os
import platform
import signal
import socket
import sys

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"
VICTIM = int(sys.argv[1])
ABSTRACT = sys.argv[2]


def number(x86, arm):
    return x86 if X86 else arm


def call(call_number, *arguments):
    words = [a if not isinstance(a, int) else ctypes.c_long(a) for a in arguments]
    result = libc.syscall(ctypes.c_long(call_number), *words)
    if result == -1:
        raise OSError(ctypes.get_errno(), "")
    return result


def in_child(action):
    """What changes the process is tried in one that ends."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, said(action).encode())
        os._exit(0)
    os.close(writer)
    answer = os.read(reader, 100).decode()
    os.close(reader)
    os.waitpid(pid, 0)
    if answer != "done":
        raise OSError(getattr(errno, answer, 0), "")


def said(action):
    try:
        action()
    except OSError as error:
        return errno.errorcode.get(error.errno, f"errno {error.errno}")
    return "done"


def name_to_handle():
    handle = ctypes.create_string_buffer(8 + 128)
    ctypes.memmove(handle, ctypes.byref(ctypes.c_uint(128)), 4)
    mount = ctypes.c_int()
    call(number(303, 264), -100, ctypes.c_char_p(b"/etc/passwd"), handle, ctypes.byref(mount), 0)


def clone_user():
    # A child that has nothing to do.
    pid = call(number(56, 220), 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def clone3():
    arguments = (ctypes.c_uint64 * 11)(0, 0, 0, 0, signal.SIGCHLD)
    pid = call(435, arguments, 88)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def mount_in_namespace():
    # Both, so that one that is open by mistake does not hide the other.
    call(number(272, 97), 0x10000000 | 0x20000)
    call(number(165, 40), ctypes.c_char_p(b"x"), ctypes.c_char_p(b"/mnt"), ctypes.c_char_p(b"tmpfs"), 0, 0)


def io_uring():
    os.close(call(425, 4, ctypes.create_string_buffer(120)))


def userfaultfd():
    # For faults of user space alone, which needs no right.
    os.close(call(number(323, 282), 1))


def key():
    call(number(248, 217), ctypes.c_char_p(b"user"), ctypes.c_char_p(b"agentguard-test"), ctypes.c_char_p(b"x"), 1, -2)


def perf():
    attributes = ctypes.create_string_buffer(112)
    # A software clock of this process in user space alone: type 1, size, config 1, exclude_kernel and _hv.
    for offset, value in [(0, 1), (4, 112), (8, 1), (40, 0x60)]:
        ctypes.memmove(ctypes.byref(attributes, offset), ctypes.byref(ctypes.c_uint64(value)), 4)
    os.close(call(number(298, 241), attributes, 0, -1, -1, 0))


def personality():
    # READ_IMPLIES_EXEC
    call(number(135, 92), 0x400000)


def terminal_input():
    # Into a terminal of its own, so that nothing is typed into anybody's.
    os.setsid()
    master, slave = os.openpty()
    fcntl.ioctl(slave, 0x540E, 0)
    fcntl.ioctl(slave, 0x5412, b"x")


def trace():
    call(number(101, 117), 16, VICTIM, 0, 0)
    os.waitpid(VICTIM, 0)
    call(number(101, 117), 17, VICTIM, 0, 0)


def place_in_memory():
    with open(f"/proc/{VICTIM}/maps") as maps:
        return int(maps.readline().split("-")[0], 16)


def read_memory():
    # Where it begins is the same kind of secret; any address shows who may.
    try:
        address = place_in_memory()
    except OSError:
        address = 0x1000
    buffer = ctypes.create_string_buffer(8)
    here = (ctypes.c_uint64 * 2)(ctypes.addressof(buffer), 8)
    there = (ctypes.c_uint64 * 2)(address, 8)
    call(number(310, 270), VICTIM, here, 1, there, 1, 0)


def memory_file():
    open(f"/proc/{VICTIM}/mem", "rb").close()


def environment():
    open(f"/proc/{VICTIM}/environ", "rb").read(1)


def command_line():
    open(f"/proc/{VICTIM}/cmdline", "rb").read(1)


def its_files():
    os.listdir(f"/proc/{VICTIM}/root")


def others():
    # Process 1 is root's.
    os.listdir("/proc/1")


def descriptor():
    pidfd = os.pidfd_open(VICTIM)
    try:
        os.close(call(438, pidfd, 0, 0))
    finally:
        os.close(pidfd)


def compare():
    call(number(312, 272), os.getpid(), VICTIM, 1, 0, 0)


def send_signal():
    os.kill(VICTIM, signal.SIGCONT)


def abstract():
    socket.socket(socket.AF_UNIX).connect("\0" + ABSTRACT)


def family(number_of_family, kind=socket.SOCK_DGRAM, protocol=0):
    return lambda: socket.socket(number_of_family, kind, protocol).close()


def x32():
    call(0x40000000 | 39)


WAYS = {
    "vsock": family(40, socket.SOCK_STREAM),
    "sock-diag": family(16, socket.SOCK_RAW, 4),
    "generic-netlink": family(16, socket.SOCK_RAW, 16),
    "user-namespace": lambda: in_child(lambda: call(number(272, 97), 0x10000000)),
    "clone-user": clone_user,
    "clone3": clone3,
    "mount": lambda: in_child(mount_in_namespace),
    "io-uring": io_uring,
    "name-to-handle": name_to_handle,
    "userfaultfd": userfaultfd,
    "key": key,
    "perf": perf,
    "personality": lambda: in_child(personality),
    "terminal-input": lambda: in_child(terminal_input),
    "ptrace": trace,
    "read-memory": read_memory,
    "pidfd-getfd": descriptor,
    "kcmp": compare,
    "memory-file": memory_file,
    "environment": environment,
    "root": its_files,
    "command-line": command_line,
    "process-1": others,
    "signal": send_signal,
    "abstract": abstract,
}

for name, way in WAYS.items():
    print(name, said(way), flush=True)
