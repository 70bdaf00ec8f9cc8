"""`websockets` against `ws_server.py`: the argument says what is done."""
import asyncio
import hashlib
import random
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

SITE = "wss://api.example.com:8443"


async def told(socket, message):
    """Prints what came back, shortly."""
    await socket.send(message)
    got = await socket.recv()
    data = got.encode() if isinstance(got, str) else got
    print(type(got).__name__, len(data), hashlib.sha256(data).hexdigest()[:16])


async def ended(socket):
    try:
        while True:
            print(await socket.recv())
    except ConnectionClosed as closed:
        print(closed.rcvd.code, closed.rcvd.reason)


async def same():
    noise = random.Random(1)
    for compression in [None, "deflate"]:
        async with connect(SITE + "/echo", compression=compression, max_size=None) as socket:
            print(socket.response.headers.get("Sec-WebSocket-Extensions"))
            await told(socket, "a text")
            await told(socket, "")
            await told(socket, "Zeichen: ü 😀")
            await told(socket, b"\0\xff bytes")
            await told(socket, ["in ", "fragments, ", "up"])
            await told(socket, "fragments on the way down")
            await told(socket, "large " * 1_000_000)
            await told(socket, noise.randbytes(5 << 20))
            # One that refers to those before it, where it is deflated.
            await told(socket, "large " * 100)
            await (await socket.ping())
            await socket.close(4000, "bye")
            print(socket.close_code, socket.close_reason)
    async with connect(SITE + "/close") as socket:
        await ended(socket)


async def denied():
    try:
        async with connect(SITE + "/secrets/1"):
            print("served")
    except InvalidStatus as refused:
        print(refused, refused.response.body.decode())


async def changed():
    async with connect(SITE + "/echo") as socket:
        await told(socket, "a text")
        print("open", flush=True)
        await ended(socket)


asyncio.run({"same": same, "denied": denied, "changed": changed}[sys.argv[1]]())
