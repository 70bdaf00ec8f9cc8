"""gRPC with messages as they are, without generated code: `serve` or the name of some calls.

Everything that a client sees of a call is printed: messages, status, and metadata of our own."""
import queue
import sys
import threading
from concurrent import futures

import grpc

CANCELLED = threading.Event()
OURS = ("x-",)


def unary(request, context):
    told = [pair for pair in context.invocation_metadata() if pair[0].startswith(OURS)]
    context.send_initial_metadata([("x-initial", "first"), ("x-bytes-bin", b"\x00\xff")])
    context.set_trailing_metadata([("x-told", repr(sorted(map(tuple, told))))])
    return request[::-1]


def stream(request, context):
    context.set_trailing_metadata([("x-trailer", "last")])
    for number in range(int(request)):
        yield b"message %d" % number


def collect(requests, context):
    return b" ".join(requests)


def chat(requests, context):
    for request in requests:
        yield request.upper()


def fail(request, context):
    context.set_trailing_metadata([("x-trailer", "of a failure")])
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "nicht so, 100 %: für niemanden")


def slow(request, context):
    ended = threading.Event()
    context.add_callback(ended.set)
    ended.wait(20)
    if not context.is_active():
        CANCELLED.set()
    return b"late"


def cancelled(request, context):
    return b"cancelled" if CANCELLED.wait(10) else b"not told"


class Told(grpc.ServerInterceptor):
    """Prints what is called."""

    def intercept_service(self, continuation, details):
        print(details.method, flush=True)
        return continuation(details)


def serve(address, certificate, key):
    with open(certificate, "rb") as certificate, open(key, "rb") as key:
        credentials = grpc.ssl_server_credentials([(key.read(), certificate.read())])
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Stream": grpc.unary_stream_rpc_method_handler(stream),
        "Collect": grpc.stream_unary_rpc_method_handler(collect),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "Slow": grpc.unary_unary_rpc_method_handler(slow),
        "Cancelled": grpc.unary_unary_rpc_method_handler(cancelled),
    }
    server = grpc.server(futures.ThreadPoolExecutor(8), interceptors=[Told()])
    for service in ["test.Echo", "test.Secret"]:
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
    server.add_secure_port(address, credentials)
    server.start()
    print("serving", flush=True)
    server.wait_for_termination()


def metadata(pairs):
    return sorted(tuple(pair) for pair in pairs or [] if pair[0].startswith(OURS))


def finished(name, call):
    print(name, call.code(), repr(call.details()), metadata(call.initial_metadata()), metadata(call.trailing_metadata()))


def attempt(name, work):
    """Prints what comes of a call, also if it raises."""
    try:
        print(name, work())
    except grpc.RpcError as error:
        print(name, error.code(), repr(error.details()), metadata(error.trailing_metadata()))


def one(channel, method, request, timeout=20):
    def work():
        reply, call = channel.unary_unary(method).with_call(request, timeout=timeout, metadata=[("x-client", "ours")])
        finished(method, call)
        return len(reply), reply[:20]

    attempt(method, work)


def allowed(channel):
    one(channel, "/test.Echo/Unary", b"a message")
    one(channel, "/test.Echo/Unary", b"x" * (1 << 20))
    one(channel, "/test.Echo/Unary", b"")

    call = channel.unary_stream("/test.Echo/Stream")(b"100", timeout=20)
    replies = list(call)
    print(len(replies), replies[-1])
    finished("stream", call)

    words = (b"word %d" % number for number in range(50))
    reply, call = channel.stream_unary("/test.Echo/Collect").with_call(words, timeout=20)
    print(len(reply), reply[-7:])
    finished("collect", call)

    # Each message is answered before the next is sent.
    said = queue.Queue()
    call = channel.stream_stream("/test.Echo/Chat")(iter(said.get, None), timeout=20)
    for number in range(5):
        said.put(b"said %d" % number)
        print(next(call))
    said.put(None)
    print(list(call))
    finished("chat", call)

    one(channel, "/test.Echo/Fail", b"")
    one(channel, "/test.Echo/Unknown", b"")


def late(channel):
    """The server learns that nobody waits any more."""
    one(channel, "/test.Echo/Slow", b"", timeout=1)
    one(channel, "/test.Echo/Cancelled", b"")


def denied(channel):
    one(channel, "/test.Secret/Unary", b"a message")
    attempt("stream", lambda: list(channel.unary_stream("/test.Secret/Stream")(b"3", timeout=20)))
    words = lambda: (b"word" for _ in range(3))
    attempt("collect", lambda: channel.stream_unary("/test.Secret/Collect")(words(), timeout=20))
    attempt("chat", lambda: list(channel.stream_stream("/test.Secret/Chat")(words(), timeout=20)))


def absent(channel):
    one(channel, "/test.Echo/Unary", b"a message")


if __name__ == "__main__":
    what, address, *rest = sys.argv[1:]
    if what == "serve":
        serve(address, *rest)
    else:
        with grpc.secure_channel(address, grpc.ssl_channel_credentials()) as channel:
            globals()[what](channel)
