"""Opens as many connections to one host as it is told, asks for something on each, and keeps all of
them until each has its answer. Prints how many were answered, and in how many seconds."""

import asyncio
import json
import resource
import ssl
import sys
import time

HOST = "api.example.com"
REQUEST = f"GET /bytes/100 HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()


async def ask(context, begin):
    async with begin:
        reader, writer = await asyncio.open_connection(HOST, 443, ssl=context)
    writer.write(REQUEST)
    answer = await reader.readuntil(b"x" * 100)
    return answer.startswith(b"HTTP/1.1 200 "), writer


async def main(count):
    context = ssl.create_default_context()
    # Handshakes that begin together; the connections stay.
    begin = asyncio.Semaphore(50)
    started = time.monotonic()
    asked = await asyncio.gather(*(ask(context, begin) for _ in range(count)))
    seconds = time.monotonic() - started
    for _, writer in asked:
        writer.close()
    return {"answered": sum(good for good, _ in asked), "seconds": seconds}


_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
print(json.dumps(asyncio.run(main(int(sys.argv[1])))))
