"""OpenAI's Realtime over WebSocket, and Azure's.

realtime_server.py PORT CERTIFICATE KEY. Prints `serving`, and then a line of JSON for each response: who asked for it,
what was offered to the model, and what was answered. The model calls the first tool that it is offered, until the
conversation has an output of one. Once it has heard something it answers by itself, at the next silence. What is written
down of that costs tokens of its own.
"""

import asyncio
import base64
import hashlib
import json
import ssl
import sys

from aiohttp import WSMsgType, web

DETECTION = {
    "type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 200,
    "idle_timeout_ms": None, "create_response": True, "interrupt_response": True,
}


def digest(text):
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


class Refused(Exception):
    """Why an event is not taken: its code, what is said of that, and of which parameter."""


class Session:
    def __init__(self, socket, model):
        self.socket, self.model = socket, model
        self.count = 0
        self.items, self.heard = [], b""
        pcm = {"type": "audio/pcm", "rate": 24000}
        self.session = {
            "object": "realtime.session", "type": "realtime", "id": "sess_1", "model": f"{model}-2025-08-28",
            "output_modalities": ["audio"], "instructions": "Be nice.", "tools": [], "tool_choice": "auto",
            "max_output_tokens": "inf", "tracing": None, "truncation": "auto", "prompt": None, "expires_at": 1767225600,
            "audio": {
                "input": {"format": pcm, "transcription": None, "noise_reduction": None, "turn_detection": DETECTION},
                "output": {"format": pcm, "voice": "marin", "speed": 1.0},
            },
            "include": None,
        }

    async def say(self, kind, **more):
        self.count += 1
        await self.socket.send_str(json.dumps({"type": kind, "event_id": f"event_{self.count}", **more}))

    async def add(self, item):
        item = {"id": f"item_{len(self.items)}", "object": "realtime.item", "status": "completed", **item}
        before = self.items[-1]["id"] if self.items else None
        self.items.append(item)
        await self.say("conversation.item.added", previous_item_id=before, item=item)
        await self.say("conversation.item.done", previous_item_id=before, item=item)
        return item

    async def take(self, event):
        """One of the client's events."""
        match event["type"]:
            case "session.update":
                await self.update(event["session"])
            case "conversation.item.create":
                await self.add(event["item"])
            case "input_audio_buffer.append":
                await self.hear(base64.b64decode(event["audio"]))
            case "response.create":
                await self.respond("client", event.get("response") or {})
            case kind:
                raise Refused("invalid_value", f"Invalid value: '{kind}'.", "type")

    async def update(self, session):
        if session.get("type") != "realtime":
            raise Refused("missing_required_parameter", "Missing required parameter: 'session.type'.", "session.type")
        if "model" in session and session["model"] != self.model:
            raise Refused("session_model_is_immutable", "Cannot update the model of a session.", "session.model")
        if session.get("audio", {}).get("output", {}).get("voice") == "nobody":
            raise Refused("invalid_value", "Invalid value: 'nobody'.", "session.audio.output.voice")
        for part, config in session.get("audio", {}).items():
            self.session["audio"][part].update(config)
        self.session.update({key: value for key, value in session.items() if key not in ("audio", "model", "type")})
        await self.say("session.updated", session=self.session)

    async def hear(self, audio):
        """Speech is what is no zeros."""
        if audio.strip(b"\0"):
            if not self.heard:
                await self.say("input_audio_buffer.speech_started", audio_start_ms=0, item_id="item_heard")
            self.heard += audio
            return
        detection = self.session["audio"]["input"]["turn_detection"]
        if not (self.heard and detection):
            return
        words, self.heard = len(self.heard), b""
        await self.say("input_audio_buffer.speech_stopped", audio_end_ms=words, item_id="item_heard")
        await self.say("input_audio_buffer.committed", previous_item_id=None, item_id="item_heard")
        item = await self.add({"type": "message", "role": "user", "content": [{"type": "input_audio", "transcript": None}]})
        transcription = self.session["audio"]["input"]["transcription"]
        if transcription:
            usage = {"type": "tokens", "input_tokens": words, "output_tokens": 3, "total_tokens": words + 3}
            kind = "conversation.item.input_audio_transcription.completed"
            await self.say(kind, item_id=item["id"], content_index=0, transcript="hello", usage=usage)
            print(json.dumps({"by": "ear", "model": transcription["model"], "tools": [], "most": None, "asked": [], "usage": [words, 3]}), flush=True)
        if detection["create_response"]:
            await self.respond("ear", {})

    async def respond(self, by, own):
        global answered
        answered += 1
        tools = own.get("tools", self.session["tools"])
        most = own.get("max_output_tokens", self.session["max_output_tokens"])
        response = {
            "object": "realtime.response", "id": f"resp_{answered}", "status": "in_progress", "status_details": None,
            "output": [], "conversation_id": "conv_1", "output_modalities": self.session["output_modalities"],
            "max_output_tokens": most, "audio": {"output": self.session["audio"]["output"]}, "usage": None,
            "metadata": own.get("metadata"),
        }
        await self.say("response.created", response=response)
        done = any(item["type"] == "function_call_output" for item in self.items)
        if tools and not done:
            item = await self.call(response["id"], tools[0]["name"])
        else:
            item = await self.speak(response["id"])
        cached = {"text_tokens": 2, "audio_tokens": 1, "image_tokens": 0}
        usage = {
            "total_tokens": 20 + answered + 6, "input_tokens": 20 + answered, "output_tokens": 6,
            "input_token_details": {"text_tokens": 10, "audio_tokens": 10 + answered, "image_tokens": 0, "cached_tokens": 3, "cached_tokens_details": cached},
            "output_token_details": {"text_tokens": 4, "audio_tokens": 2},
        }
        await self.say("response.done", response={**response, "status": "completed", "output": [item], "usage": usage})
        await self.say("rate_limits.updated", rate_limits=[{"name": "tokens", "limit": 9999, "remaining": 999, "reset_seconds": 1.5}])
        asked = [[item["name"], digest(item["arguments"])]] if item["type"] == "function_call" else []
        names = sorted(tool["name"] for tool in tools)
        told = {"by": by, "model": self.model, "tools": names, "most": None if most == "inf" else most, "asked": asked}
        print(json.dumps({**told, "usage": [usage["input_tokens"], usage["output_tokens"]]}), flush=True)

    async def output(self, response, item, begun):
        """An item of the output begins."""
        where = {"response_id": response, "output_index": 0}
        await self.say("response.output_item.added", **where, item={**item, **begun, "status": "in_progress"})
        await self.say("conversation.item.added", previous_item_id=None, item={**item, **begun, "status": "in_progress"})
        return {**where, "item_id": item["id"]}

    async def ends(self, response, item):
        self.items.append(item)
        await self.say("conversation.item.done", previous_item_id=None, item=item)
        await self.say("response.output_item.done", response_id=response, output_index=0, item=item)
        return item

    async def call(self, response, name):
        arguments = '{"place": "the shelf"}'
        item = {
            "id": f"item_{len(self.items)}", "object": "realtime.item", "type": "function_call", "status": "completed",
            "name": name, "call_id": f"call_{answered}", "arguments": arguments,
        }
        where = await self.output(response, item, {"arguments": ""})
        where["call_id"] = item["call_id"]
        for piece in (arguments[:5], arguments[5:12], arguments[12:]):
            await self.say("response.function_call_arguments.delta", **where, delta=piece)
        await self.say("response.function_call_arguments.done", **where, name=name, arguments=arguments)
        return await self.ends(response, item)

    async def speak(self, response):
        part = {"type": "output_text", "text": "All done."}
        item = {
            "id": f"item_{len(self.items)}", "object": "realtime.item", "type": "message", "status": "completed",
            "role": "assistant", "content": [part],
        }
        where = {**await self.output(response, item, {"content": []}), "content_index": 0}
        await self.say("response.content_part.added", **where, part={**part, "text": ""})
        for piece in ("All ", "done."):
            await self.say("response.output_text.delta", **where, delta=piece)
        await self.say("response.output_text.done", **where, text=part["text"])
        await self.say("response.content_part.done", **where, part=part)
        return await self.ends(response, item)


answered = 0


async def serve(request):
    model = request.query.get("model") or request.query.get("deployment")
    if not request.path.endswith("/realtime") or not model:
        return web.json_response({"error": {"message": "not here"}}, status=404)
    socket = web.WebSocketResponse(max_msg_size=0)
    await socket.prepare(request)
    session = Session(socket, model)
    await session.say("session.created", session=session.session)
    async for message in socket:
        if message.type != WSMsgType.TEXT:
            break
        event = json.loads(message.data)
        try:
            await session.take(event)
        except Refused as refused:
            code, said, parameter = refused.args
            error = {"type": "invalid_request_error", "code": code, "message": said, "param": parameter}
            await session.say("error", error={**error, "event_id": event.get("event_id")})
    return socket


async def main():
    port, *certificate = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    application = web.Application()
    application.router.add_route("GET", "/{path:.*}", serve)
    runner = web.AppRunner(application, handle_signals=False)
    await runner.setup()
    await web.TCPSite(runner, None, int(port), ssl_context=context).start()
    print("serving", flush=True)
    await asyncio.Future()


asyncio.run(main())
