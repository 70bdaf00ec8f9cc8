"""OpenAI's SDK in sessions in real time. The argument names what is done."""
import asyncio
import base64
import sys

import openai
from websockets.exceptions import ConnectionClosed, InvalidStatus

MODEL = "gpt-realtime"
AZURE = {"azure_endpoint": "https://ours.openai.azure.com", "api_key": "any", "api_version": "2025-04-01-preview"}
client = openai.OpenAI(api_key="any")


def function(name):
    place = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
    return {"type": "function", "name": name, "description": "It looks.", "parameters": place}


LOOK = {"type": "realtime", "model": MODEL, "output_modalities": ["text"], "tools": [function("look")], "max_output_tokens": 200}
ASK = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "What is there?"}]}
SPEECH, SILENCE = (base64.b64encode(byte * 480).decode() for byte in (b"\1", b"\0"))


def until(connection, kind):
    """Reads up to an event of this type, and says what came."""
    for event in connection:
        print(event.type, getattr(event, "delta", ""))
        if event.type == "error":
            print(event.error.code, event.error.event_id, event.error.message)
        if event.type in (kind, "error"):
            return event


def done(connection):
    response = until(connection, "response.done").response
    for item in response.output:
        print(item.type, getattr(item, "name", ""), getattr(item, "arguments", ""))
    print(response.usage.input_tokens, response.usage.output_tokens)
    return response.output


def converse(connection):
    """Two responses that are asked for, the first of which calls a function, and one that is not."""
    connection.session.update(session=LOOK)
    connection.conversation.item.create(item=ASK)
    connection.response.create()
    [call] = done(connection)
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "books"}
    connection.conversation.item.create(item=output)
    connection.response.create(response={"max_output_tokens": 50, "tools": []})
    done(connection)
    connection.session.update(session={"type": "realtime", "audio": {"input": {"transcription": {"model": "whisper-1"}}}})
    for audio in (SPEECH, SPEECH, SILENCE):
        connection.input_audio_buffer.append(audio=audio)
    done(connection)


def turns():
    with client.realtime.connect(model=MODEL) as connection:
        converse(connection)


def azure():
    with openai.AzureOpenAI(**AZURE).realtime.connect(model=MODEL) as connection:
        converse(connection)


async def asynchronous():
    async with openai.AsyncOpenAI(api_key="any").realtime.connect(model=MODEL) as connection:
        await connection.session.update(session=LOOK)
        await connection.response.create()
        async for event in connection:
            print(event.type)
            if event.type == "response.done":
                return


def voice():
    """An update that the server does not take, and one that it does."""
    with client.realtime.connect(model=MODEL) as connection:
        connection.session.update(session={**LOOK, "audio": {"output": {"voice": "nobody"}}}, event_id="first")
        until(connection, "error")
        connection.session.update(session=LOOK)
        connection.response.create()
        done(connection)


def shell():
    with client.realtime.connect(model=MODEL) as connection:
        connection.session.update(session={**LOOK, "tools": [function("look"), function("shell")]}, event_id="mine")
        until(connection, "error")
        connection.session.update(session=LOOK)
        connection.response.create(response={"tools": [function("shell")]})
        until(connection, "error")
        connection.response.create()
        done(connection)


def model():
    try:
        with client.realtime.connect(model="gpt-4o-realtime-preview") as connection:
            print(next(iter(connection)).type)
    except InvalidStatus as refused:
        print(refused.response.status_code, refused.response.body.decode())


def changed():
    """What is denied while it is open."""
    with client.realtime.connect(model=MODEL) as connection:
        connection.session.update(session=LOOK)
        until(connection, "session.updated")
        print("open", flush=True)
        try:
            until(connection, "never")
            connection.recv()
        except ConnectionClosed as closed:
            print(closed.rcvd.code, closed.rcvd.reason)


for name in sys.argv[1:]:
    call = globals()[name]
    asyncio.run(call()) if asyncio.iscoroutinefunction(call) else call()
