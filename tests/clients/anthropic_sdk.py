"""Anthropic's SDK as its users call it. Each argument names a call."""
import asyncio
import sys

import anthropic

client = anthropic.Anthropic(api_key="any")
SENTENCE = "one two three four five six"
CHAT = {
    "model": "claude-haiku-4-5",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": SENTENCE}],
}
# The second half of the stream waits for another request, so for the first half to be read.
HOLD = {"x-hold": "yes"}


def show(message):
    print(message.content[0].text, message.stop_reason)
    print(message.usage.input_tokens, message.usage.output_tokens)


def plain():
    show(client.messages.create(**CHAT))


def stream():
    with client.messages.stream(**CHAT, extra_headers=HOLD) as stream:
        for word in stream.text_stream:
            print(word)
            if word == "one ":
                client.messages.create(**CHAT)
        show(stream.get_final_message())


async def asynchronous():
    async with anthropic.AsyncAnthropic(api_key="any") as client:
        async with client.messages.stream(**CHAT, extra_headers=HOLD) as stream:
            async for word in stream.text_stream:
                print(word)
                if word == "one ":
                    await client.messages.create(**CHAT)
            show(await stream.get_final_message())


LOOK = {"name": "look", "input_schema": {"type": "object"}}


def used(message):
    [call] = message.content
    print(call.type, call.id, call.name, call.input, message.stop_reason)
    print(message.usage.input_tokens, message.usage.output_tokens)
    return call


def tool():
    call = used(client.messages.create(**CHAT, tools=[LOOK]))
    with client.messages.stream(**CHAT, tools=[LOOK]) as stream:
        for event in stream:
            print(event.type, getattr(event, "partial_json", ""))
        used(stream.get_final_message())
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "one two"}
    answered = [
        *CHAT["messages"],
        {"role": "assistant", "content": [call.model_dump(include={"type", "id", "name", "input"})]},
        {"role": "user", "content": [result, {"type": "text", "text": "go on"}]},
    ]
    show(client.messages.create(**{**CHAT, "messages": answered}, tools=[LOOK]))


def count():
    asked = {key: CHAT[key] for key in ["model", "messages"]}
    print(client.messages.count_tokens(**asked, system="zero", tools=[LOOK]).input_tokens)


def unknown():
    attempt(lambda: client.messages.create(**{**CHAT, "model": "no-such-model"}))


def forbidden():
    attempt(lambda: client.messages.create(**{**CHAT, "model": "claude-forbidden"}))


def models():
    attempt(lambda: client.models.list())


def denied():
    attempt(lambda: client.messages.batches.create(requests=[]))


def attempt(call):
    try:
        print(call())
    except anthropic.APIStatusError as error:
        print(type(error).__name__, error)


for name in sys.argv[1:]:
    call = globals()[name]
    asyncio.run(call()) if asyncio.iscoroutinefunction(call) else call()
