"""An agent that makes many calls at once, and notes what it gets.

storm_client.py PLAN AUTHORITIES GO. PLAN is a file with a JSON list of lists of calls: what is in the list N is called at
once, as soon as there is a file whose name is GO and N. A call:

    {"call": 7, "host": "api.openai.com", "path": "/v1/responses", "body": {…}, "leave": 200}

It is left behind `leave` words, with a reset where that is odd. Prints `ready`, and for each call a line of JSON: its
status, how many words came, the usage that was told, whether it is worth to be tried again, and how it ended: `done`,
`left`, `refused` (another status than 200), `error` (one in the stream), `lost` (anything else). Behind each list it prints
`over`.
"""

import asyncio
import json
import os
import socket
import ssl
import struct
import sys

PLAN, AUTHORITIES, GO = sys.argv[1:]
CONTEXT = ssl.create_default_context(cafile=AUTHORITIES)
PATIENCE = 45


async def lines(reader, chunked, length):
    """The lines of a body, as they come."""
    if not chunked:
        for line in (await reader.readexactly(length)).split(b"\n"):
            yield line
        return
    rest = b""
    while size := int(await reader.readline(), 16):
        *whole, rest = (rest + (await reader.readexactly(size + 2))[:-2]).split(b"\n")
        for line in whole:
            yield line
    yield rest


def heard(note, event):
    """What an event says: the text of it, and whether it is an end."""
    kind = event.get("type", "")
    response = event.get("response") or {}
    error = event.get("error") or response.get("error")
    if error:
        note["end"], note["error"] = "error", json.dumps(error)
    usage = event.get("usage") or response.get("usage")
    if usage:
        read = usage.get("prompt_tokens", usage.get("input_tokens"))
        note["usage"] = [note["usage"][0] if read is None else read, usage.get("completion_tokens", usage.get("output_tokens"))]
    if kind == "message_start":
        note["usage"] = [event["message"]["usage"]["input_tokens"], 0]
    if kind in ("message_stop", "response.completed", "response.incomplete"):
        note["end"] = "done"
    if kind == "response.output_text.delta":
        return event["delta"]
    if kind == "content_block_delta":
        return event["delta"]["text"]
    return "".join(choice["delta"].get("content") or "" for choice in event.get("choices", ()))


def leave(writer, with_reset):
    if with_reset:
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
    else:
        writer.close()


async def exchange(call, note, reader, writer):
    body = json.dumps(call["body"]).encode()
    trace = f"00-{call['call']:032x}-{1:016x}-01"
    fields = {"host": call["host"], "content-type": "application/json", "content-length": len(body), "traceparent": trace}
    fields |= {"authorization": "Bearer any", "x-api-key": "any", "anthropic-version": "2023-06-01"}
    head = f"POST {call['path']} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    writer.write(head.encode() + b"\r\n" + body)
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    note["status"] = int(head[0].split(" ")[1])
    fields = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    note["retry"] = fields.get("x-should-retry") or fields.get("retry-after")
    chunked = "chunked" in fields.get("transfer-encoding", "")
    content = lines(reader, chunked, int(fields.get("content-length", 0)))
    if note["status"] != 200:
        note["end"], note["error"] = "refused", b"".join([line async for line in content]).decode()
        return
    async for line in content:
        if line == b"data: [DONE]":
            note["end"] = "done" if note["end"] == "lost" else note["end"]
        elif line.startswith(b"data: "):
            note["words"] += len(heard(note, json.loads(line[6:])).split())
            if call["leave"] is not None and note["words"] >= call["leave"]:
                note["end"] = "left"
                leave(writer, call["leave"] % 2)
                return


async def make(call):
    note = {"call": call["call"], "status": 0, "words": 0, "usage": [None, None], "end": "lost", "error": None, "retry": None}
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(call["host"], 443, ssl=CONTEXT)
            try:
                await exchange(call, note, reader, writer)
            finally:
                writer.close()
    except (asyncio.IncompleteReadError, TimeoutError, OSError, ValueError) as error:
        # An answer that was at its end before the connection broke has had its end.
        note["error"] = note["error"] or repr(error)
    print(json.dumps(note), flush=True)


async def main():
    with open(PLAN) as file:
        waves = json.load(file)
    print("ready", flush=True)
    for number, wave in enumerate(waves):
        while not os.path.exists(f"{GO}{number}"):
            await asyncio.sleep(0.02)
        await asyncio.gather(*map(make, wave))
        print("over", flush=True)


asyncio.run(main())
