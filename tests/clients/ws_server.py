"""A WebSocket server on the port, with the certificate and its key, that are its arguments: it sends back
what it gets, and below `/close` it closes."""
import asyncio
import ssl
import sys

from websockets.asyncio.server import serve


async def answer(socket):
    if socket.request.path == "/close":
        await socket.send("one, and no more")
        await socket.close(4001, "enough")
        return
    async for message in socket:
        # As many fragments as there are words, if the client asks for that.
        if isinstance(message, str) and message.startswith("fragments "):
            await socket.send(message.split(" "))
        else:
            await socket.send(message)


async def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*sys.argv[2:4])
    async with serve(answer, None, int(sys.argv[1]), ssl=context, max_size=None):
        print("serving", flush=True)
        await asyncio.Future()


asyncio.run(main())
