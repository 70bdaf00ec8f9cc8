"""Providers that keep their own books: OpenAI's Chat Completions and Responses, and Anthropic's Messages, all as streams.

storm_server.py PORT CERTIFICATE KEY. Prints `serving`. What becomes of a call is in its prompt, which is JSON:

    {"call": 7, "words": 400, "hidden": 0, "per": 12, "pace": 0.05, "fate": "done", "at": 3, "input": 90, "gather": 0}

The model thinks `hidden` tokens and says `words` words, `per` in each event, an event every `pace` seconds, as far as the
limit of the call allows. A word is a token. Behind `tell` words, if there is that, it is told that they are written. `fate`
at the event `at`: `done` (never mind `at`), `silent` (an end that does not tell the usage), `error` (an error in the
stream), `reset`, `short` (the connection ends), or a status with which the call is refused, at once. The first word waits
until `gather` calls that are to gather are under way, which is for 30 seconds at most.

A token is billed when it is made, whether anybody gets it or not: until it is seen that the connection is gone. Of each
call there is a line of JSON when it begins and one when it is over: what was billed, and how it ended.
"""

import asyncio
import json
import socket
import ssl
import struct
import sys

LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")


def tell(**line):
    print(json.dumps(line), flush=True)


class Chat:
    def __init__(self, body, call):
        self.model, self.number = body["model"], call["call"]
        self.tells = (body.get("stream_options") or {}).get("include_usage")

    def chunk(self, choices, **more):
        chunk = {"id": f"chatcmpl-{self.number}", "object": "chat.completion.chunk", "created": 1, "model": self.model}
        return "data: " + json.dumps({**chunk, "choices": choices, **more}) + "\n\n"

    def delta(self, delta, finish=None):
        return self.chunk([{"index": 0, "delta": delta, "finish_reason": finish}])

    def begins(self, _):
        return self.delta({"role": "assistant", "content": ""})

    def says(self, text):
        return self.delta({"content": text})

    def fails(self):
        return 'data: {"error": {"message": "The model broke.", "type": "server_error", "param": null, "code": null}}\n\n'

    def ends(self, cut, usage):
        end = self.delta({}, "length" if cut else "stop")
        if usage and self.tells:
            read, written, hidden = usage
            told = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
            end += self.chunk([], usage={**told, "completion_tokens_details": {"reasoning_tokens": hidden}})
        return end + "data: [DONE]\n\n"


class Responses:
    def __init__(self, body, call):
        self.response = {"id": f"resp_{call['call']}", "object": "response", "model": body["model"], "output": []}

    def event(self, kind, **more):
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **more})}\n\n"

    def begins(self, _):
        item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "in_progress", "content": []}
        begun = self.event("response.created", response={**self.response, "status": "in_progress"})
        return begun + self.event("response.output_item.added", output_index=0, item=item)

    def says(self, text):
        return self.event("response.output_text.delta", item_id="msg_1", output_index=0, content_index=0, delta=text)

    def fails(self):
        error = {"code": "server_error", "message": "The model broke."}
        return self.event("response.failed", response={**self.response, "status": "failed", "error": error})

    def ends(self, cut, usage):
        kind, told = ("incomplete", {"incomplete_details": {"reason": "max_output_tokens"}}) if cut else ("completed", {})
        if usage:
            read, written, hidden = usage
            details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": hidden}}
            told["usage"] = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written, **details}
        return self.event(f"response.{kind}", response={**self.response, "status": kind, **told})


class Messages:
    def __init__(self, body, call):
        message = {"id": f"msg_{call['call']}", "type": "message", "role": "assistant", "model": body["model"]}
        self.message = {**message, "content": [], "stop_reason": None, "stop_sequence": None}

    def event(self, kind, **more):
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **more})}\n\n"

    def begins(self, read):
        usage = {"input_tokens": read, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 1}
        begun = self.event("message_start", message={**self.message, "usage": usage})
        return begun + self.event("content_block_start", index=0, content_block={"type": "text", "text": ""})

    def says(self, text):
        return self.event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})

    def fails(self):
        return self.event("error", error={"type": "overloaded_error", "message": "The model broke."}, request_id=None)

    def ends(self, cut, usage):
        delta = {"stop_reason": "max_tokens" if cut else "end_turn", "stop_sequence": None}
        end = self.event("content_block_stop", index=0)
        if usage:
            end += self.event("message_delta", delta=delta, usage={"output_tokens": usage[1]})
        return end + self.event("message_stop")


APIS = {"/v1/chat/completions": Chat, "/v1/responses": Responses, "/v1/messages": Messages}


def prompt(body):
    """What the user says, which is JSON."""
    said = body["input"] if "input" in body else body["messages"][-1]["content"]
    return json.loads(said)


async def request(reader):
    """The path and the body of the next request."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    if "content-length" in fields:
        return head[0].split(" ")[1], await reader.readexactly(int(fields["content-length"]))
    body = b""
    while size := int(await reader.readline(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readline()
    return head[0].split(" ")[1], body


def reset(writer):
    """Ends a connection with RST (`SO_LINGER` of zero)."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


def refuse(writer, status):
    told = json.dumps({"type": "error", "error": {"type": "api_error", "message": "The model broke."}})
    head = f"HTTP/1.1 {status} Not Now\r\ncontent-type: application/json\r\ncontent-length: {len(told)}\r\n\r\n"
    writer.write((head + told).encode())


class Bill:
    """What is billed for a call, told when it is over, whatever happens."""

    def __init__(self, call, limit):
        self.call, self.limit = call, limit
        self.input = self.output = 0
        self.how = "gone"

    def __enter__(self):
        tell(begins=self.call["call"], limit=self.limit)
        return self

    def __exit__(self, *_):
        tell(ends=self.call["call"], input=self.input, output=self.output, how=self.how)


class Gathering:
    """Those that begin to write together."""

    def __init__(self):
        self.count, self.complete = 0, asyncio.Event()

    async def joins(self, least):
        self.count += 1
        if self.count >= least:
            self.complete.set()
        try:
            async with asyncio.timeout(30):
                await self.complete.wait()
        except TimeoutError:
            pass


GATHERING = Gathering()


async def answer(api, body, call, writer, bill):
    """Streams an answer. Whether the connection can be used for another."""
    if isinstance(call["fate"], int):
        bill.how = "refused"
        # What breaks inside has read what it was given; who is busy has not.
        bill.input = call["input"] if call["fate"] == 500 else 0
        refuse(writer, call["fate"])
        return True

    def send(text):
        writer.write(b"%x\r\n%s\r\n" % (len(text), text.encode()))

    bill.input = call["input"]
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    send(api.begins(call["input"]))
    bill.output = hidden = min(call["hidden"], bill.limit)
    words = min(call["words"], bill.limit - hidden)
    if call["gather"]:
        await GATHERING.joins(call["gather"])
    said, number = 0, 0
    while said < words:
        await asyncio.sleep(call["pace"])
        if writer.transport.is_closing():
            return False
        if number == call["at"] and call["fate"] in ("error", "reset", "short"):
            bill.how = call["fate"]
            if call["fate"] == "error":
                send(api.fails())
                writer.write(b"0\r\n\r\n")
                return True
            if call["fate"] == "reset":
                reset(writer)
            return False
        piece = min(call["per"], words - said)
        # So OpenAI's tokenizers count, too: the space belongs to the word behind it.
        text = " one" * piece
        send(api.says(text if said else text.lstrip()))
        said, number = said + piece, number + 1
        bill.output += piece
        if said - piece < call.get("tell", 0) <= said:
            tell(wrote=call["call"])
    usage = None if call["fate"] == "silent" else (bill.input, bill.output, hidden)
    bill.how = "silent" if call["fate"] == "silent" else "done"
    send(api.ends(call["words"] + call["hidden"] > bill.limit, usage))
    writer.write(b"0\r\n\r\n")
    return True


async def serve(reader, writer):
    try:
        goes_on = True
        while goes_on:
            path, body = await request(reader)
            body = json.loads(body)
            call = prompt(body)
            limit = next((body[key] for key in LIMITS if body.get(key)), 1 << 20)
            with Bill(call, limit) as bill:
                goes_on = await answer(APIS[path](body, call), body, call, writer, bill)
    except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
        pass
    finally:
        writer.close()


async def main():
    port, *certificate = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    await asyncio.start_server(serve, None, int(port), ssl=context, backlog=1024)
    print("serving", flush=True)
    await asyncio.Future()


asyncio.run(main())
