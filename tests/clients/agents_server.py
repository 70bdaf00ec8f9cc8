"""The providers of Claude Code and Codex CLI: Anthropic's Messages, and OpenAI's Responses over SSE and WebSocket.

agents_server.py PORT CERTIFICATE KEY. Prints `serving`, and then a line of JSON for each call of a model: what was asked
for, and what was answered. The model asks for one call of the agent's shell, and is done once it has the result. A
prompt with `hold on` gets the beginning of an answer and no end, one with `fail now` an error; one with `write 500 words` gets these first, a few at a
time, as far as its limit of output allows, and `slowly` if it says so: a word is a token. What is written is billed until it is seen that nobody
listens any more. Whatever else is asked for is not there.
"""

import asyncio
import json
import re
import ssl
import sys

from aiohttp import WSMsgType, web

COMMAND = "echo from-the-tool"
# How many seconds go by between two parts of a long text.
PACE = 0.02
calls = 0


def offered(tools):
    """The names of tools, also of those inside others; of what has no name its type."""
    for tool in tools or []:
        yield tool.get("name") or tool["type"]
        yield from offered(tool.get("tools"))


def told(body, api, transport, tools):
    """What was asked for."""
    said = {key: body.get(key) for key in ("metadata", "max_tokens")}
    return {"api": api, "transport": transport, "model": body["model"], "tools": sorted(tools), **said}


def tell(call, **more):
    print(json.dumps({**call, **more}), flush=True)


def ordered(said, tools, tool, has_result):
    """How many words are to be written first; none where the tool has been called already, or is not offered."""
    found = re.search(r"write (\d+) words", said)
    return int(found[1]) if found and tool in tools and not has_result else 0


def writes(call, read, words, limit, say, pauses=1):
    """The events of a long text, and pauses between them; what was billed is told if it breaks off."""
    said, whole = 0, False
    try:
        while said < min(words, limit):
            for _ in range(pauses):
                yield PACE
            piece = min(10, words - said, limit - said)
            # So OpenAI's tokenizers count, too: the space belongs to the word behind it.
            text = " one" * piece
            said += piece
            yield say(text if said > piece else text.lstrip())
        whole = True
    finally:
        if not whole:
            tell(call, asked=[], usage=None, billed=[read, said])


def long_response(body, call, response, words):
    read, limit = 11 + calls, body.get("max_output_tokens") or 1 << 20
    item = {"type": "message", "id": "msg_1", "role": "assistant"}
    begun = {**item, "status": "in_progress", "content": []}
    yield {"type": "response.output_item.added", "output_index": 0, "item": begun}
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    pauses = 6 if "slowly" in json.dumps(body["input"]) else 1
    def delta(text):
        return {"type": "response.output_text.delta", **place, "delta": text}

    yield from writes(call, read, words, limit, delta, pauses)
    said, cut = min(words, limit), words + 5 > limit
    text = {"type": "output_text", "text": " ".join(["one"] * said), "annotations": []}
    output = [{**item, "status": "completed", "content": [text]}]
    yield {"type": "response.output_item.done", "output_index": 0, "item": output[0]}
    if not cut:
        arguments = json.dumps({"cmd": COMMAND})
        asked = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "exec_command", "arguments": arguments}
        yield {"type": "response.output_item.added", "output_index": 1, "item": {**asked, "arguments": ""}}
        yield {"type": "response.output_item.done", "output_index": 1, "item": asked}
        output, said = [*output, asked], said + 5
    usage = {"input_tokens": read, "output_tokens": said, "total_tokens": read + said}
    kind, why = ("incomplete", {"incomplete_details": {"reason": "max_output_tokens"}}) if cut else ("completed", {})
    yield {"type": f"response.{kind}", "response": {**response, "status": kind, "output": output, "usage": usage, **why}}
    tell(call, asked=[] if cut else ["exec_command"], usage=[read, said], billed=[read, said])


def long_message(body, call, words):
    read, limit = 16 + calls, body["max_tokens"]
    yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    delta = {"type": "content_block_delta", "index": 0}
    yield from writes(call, read, words, limit, lambda text: {**delta, "delta": {"type": "text_delta", "text": text}})
    yield {"type": "content_block_stop", "index": 0}
    said, cut = min(words, limit), words + 5 > limit
    if not cut:
        block = {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {}}
        whole = json.dumps({"command": COMMAND})
        yield {"type": "content_block_start", "index": 1, "content_block": block}
        yield {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": whole}}
        yield {"type": "content_block_stop", "index": 1}
        said += 5
    stop = {"stop_reason": "max_tokens" if cut else "tool_use", "stop_sequence": None}
    yield {"type": "message_delta", "delta": stop, "usage": {"output_tokens": said}}
    yield {"type": "message_stop"}
    tell(call, asked=[] if cut else ["Bash"], usage=[read, said], billed=[read, said])


def responses(body, transport):
    """The events of an answer, and whether it has an end."""
    global calls
    calls += 1
    items = body.get("input") or []
    tools = list(offered(body.get("tools")))
    for item in items:
        tools += offered(item.get("tools"))
    call = told(body, "responses", transport, tools)
    response = {"id": f"resp_{calls}", "object": "response", "model": body["model"], "output": []}
    yield {"type": "response.created", "response": {**response, "status": "in_progress"}}
    if "hold on" in json.dumps(items):
        tell(call, asked=[], usage=None)
        yield None
        return
    if "fail now" in json.dumps(items):
        error = {"code": "server_error", "message": "It broke."}
        yield {"type": "response.failed", "response": {**response, "status": "failed", "error": error}}
        tell(call, asked=[], usage=None)
        return
    done = any(item.get("type", "").endswith("_call_output") for item in items)
    if words := ordered(json.dumps(items), tools, "exec_command", done):
        yield from long_response(body, call, response, words)
        return
    usage, output = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}, []
    if body.get("generate") is not False:
        if done or "exec_command" not in tools:
            text = {"type": "output_text", "text": "All done.", "annotations": []}
            output = [{"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [text]}]
        else:
            arguments = json.dumps({"cmd": COMMAND})
            output = [{"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "exec_command", "arguments": arguments}]
        details = {"input_tokens_details": {"cached_tokens": 3}, "output_tokens_details": {"reasoning_tokens": 1}}
        usage = {"input_tokens": 11 + calls, "output_tokens": 5, "total_tokens": 16 + calls, **details}
    for index, item in enumerate(output):
        begun = {key: value for key, value in item.items() if key not in ("arguments", "content")}
        empty = {"arguments": ""} if "arguments" in item else {"content": []}
        yield {"type": "response.output_item.added", "output_index": index, "item": {**begun, **empty}}
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    yield {"type": "response.completed", "response": {**response, "status": "completed", "output": output, "usage": usage}}
    tell(call, asked=[item["name"] for item in output if "name" in item], usage=[usage["input_tokens"], usage["output_tokens"]])


def messages(body):
    """As `responses`."""
    global calls
    calls += 1
    tools = list(offered(body.get("tools")))
    call = told(body, "messages", "sse", tools)
    usage = {"input_tokens": 10 + calls, "cache_creation_input_tokens": 2, "cache_read_input_tokens": 4, "output_tokens": 1}
    message = {"id": f"msg_{calls}", "type": "message", "role": "assistant", "model": body["model"], "content": []}
    yield {"type": "message_start", "message": {**message, "stop_reason": None, "stop_sequence": None, "usage": usage}}
    said = json.dumps(body["messages"])
    if "hold on" in said and tools:
        tell(call, asked=[], usage=None)
        yield None
        return
    if words := ordered(said, tools, "Bash", '"tool_result"' in said):
        yield from long_message(body, call, words)
        return
    asked = []
    if "Bash" in tools and '"tool_result"' not in said:
        asked, whole = ["Bash"], json.dumps({"command": COMMAND})
        block = {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {}}
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in (whole[:9], whole[9:])]
    else:
        block = {"type": "text", "text": ""}
        deltas = [{"type": "text_delta", "text": piece} for piece in ("All ", "done.")]
    yield {"type": "content_block_start", "index": 0, "content_block": block}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}
    stop = {"stop_reason": "tool_use" if asked else "end_turn", "stop_sequence": None}
    yield {"type": "message_delta", "delta": stop, "usage": {"output_tokens": 9}}
    yield {"type": "message_stop"}
    tell(call, asked=asked, usage=[16 + calls, 9])


def whole(events):
    """The message that the events of a stream come to."""
    message, text, arguments = {}, "", ""
    for event in events:
        if event == PACE:
            continue
        match event["type"]:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                message["content"].append(event["content_block"])
            case "content_block_delta":
                text += event["delta"].get("text", "")
                arguments += event["delta"].get("partial_json", "")
            case "message_delta":
                message = {**message, **event["delta"], "usage": {**message["usage"], **event["usage"]}}
    [block] = message["content"]
    block.update({"text": text} if block["type"] == "text" else {"input": json.loads(arguments)})
    return message


async def forever(gone):
    """Until whoever asked goes away."""
    while not gone():
        await asyncio.sleep(0.05)


async def socket(request):
    opened = web.WebSocketResponse(max_msg_size=0)
    await opened.prepare(request)

    async def answer():
        async for message in opened:
            body = json.loads(message.data) if message.type == WSMsgType.TEXT else {}
            if body.get("type") == "response.create":
                for event in responses(body, "websocket"):
                    if event is None or opened.closed:
                        break
                    if event == PACE:
                        await asyncio.sleep(PACE)
                        continue
                    await opened.send_str(json.dumps(event))

    await answer()
    return opened


async def stream(request, events):
    answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await answer.prepare(request)
    def gone():
        return request.transport is None or request.transport.is_closing()

    for event in events:
        if event is None:
            await forever(gone)
            return answer
        if event == PACE:
            await asyncio.sleep(PACE)
            continue
        if gone():
            events.close()
            return answer
        await answer.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
    return answer


async def serve(request):
    if request.path == "/v1/responses" and request.headers.get("upgrade", "").lower() == "websocket":
        return await socket(request)
    if request.method == "POST" and request.path == "/v1/responses":
        return await stream(request, responses(await request.json(), "sse"))
    if request.method == "POST" and request.path == "/v1/messages":
        body = await request.json()
        if body.get("stream"):
            return await stream(request, messages(body))
        return web.json_response(whole(messages(body)))
    return web.json_response({"type": "error", "error": {"type": "not_found_error", "message": "not here"}}, status=404)


async def main():
    port, *certificate = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    application = web.Application(client_max_size=1 << 30)
    application.router.add_route("*", "/{path:.*}", serve)
    runner = web.AppRunner(application, handle_signals=False)
    await runner.setup()
    await web.TCPSite(runner, None, int(port), ssl_context=context).start()
    print("serving", flush=True)
    await asyncio.Future()


asyncio.run(main())
