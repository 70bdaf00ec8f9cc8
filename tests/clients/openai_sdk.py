"""OpenAI's SDK as its users call it. Each argument names a call."""
import asyncio
import sys

import openai

client = openai.OpenAI(api_key="any")
MODEL = "gpt-5-mini"
SENTENCE = "one two three four five six"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": SENTENCE}]}
STREAM = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
# The second half of the stream waits for another request, so for the first half to be read.
HOLD = {"x-hold": "yes"}


def show(chunk):
    for choice in chunk.choices:
        print(choice.delta.content, choice.finish_reason)
    if chunk.usage:
        print(chunk.usage.prompt_tokens, chunk.usage.completion_tokens)


def plain():
    done = client.chat.completions.create(**CHAT)
    print(done.choices[0].message.content, done.usage.total_tokens)
    print([model.id for model in client.models.list()])
    vectors = client.embeddings.create(model="text-embedding-3-small", input=["a b", "c"])
    print([vector.embedding for vector in vectors.data])


def stream():
    chunks = client.chat.completions.create(**STREAM, extra_headers=HOLD)
    show(next(chunks))
    show(next(chunks))
    client.models.list()
    for chunk in chunks:
        show(chunk)


async def asynchronous():
    async with openai.AsyncOpenAI(api_key="any") as client:
        chunks = await client.chat.completions.create(**STREAM, extra_headers=HOLD)
        show(await anext(chunks))
        show(await anext(chunks))
        await client.models.list()
        async for chunk in chunks:
            show(chunk)


def responses():
    print(client.responses.create(model=MODEL, input=SENTENCE).output_text)
    events = client.responses.create(model=MODEL, input=SENTENCE, stream=True, extra_headers=HOLD)
    for event in events:
        print(event.type, getattr(event, "delta", ""))
        if getattr(event, "delta", "") == "one ":
            client.models.list()


LOOK = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": False}


def used(response):
    [call] = response.output
    print(call.type, call.call_id, call.name, call.arguments, response.status)
    print(response.usage.input_tokens, response.usage.output_tokens)


def tool():
    used(client.responses.create(model=MODEL, input=SENTENCE, tools=[LOOK]))
    with client.responses.stream(model=MODEL, input=SENTENCE, tools=[LOOK]) as stream:
        for event in stream:
            print(event.type, getattr(event, "delta", ""))
        used(stream.get_final_response())


def unknown():
    attempt(lambda: client.chat.completions.create(**{**CHAT, "model": "no-such-model"}))


def forbidden():
    attempt(lambda: client.chat.completions.create(**{**CHAT, "model": "gpt-4-forbidden"}))


def models():
    attempt(lambda: client.models.list())


def denied():
    attempt(lambda: client.files.create(file=("notes.txt", b"notes"), purpose="user_data"))


def attempt(call):
    try:
        print(call())
    except openai.APIStatusError as error:
        print(type(error).__name__, error)


for name in sys.argv[1:]:
    call = globals()[name]
    asyncio.run(call()) if asyncio.iscoroutinefunction(call) else call()
