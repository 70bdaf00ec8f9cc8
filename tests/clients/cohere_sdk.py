"""Cohere's SDK as its users call it. Each argument names a call."""
import asyncio
import sys

import cohere
from cohere.core.api_error import ApiError

client = cohere.ClientV2(api_key="any")
CHAT = {
    "model": "command-x",
    "messages": [{"role": "user", "content": "one two three four five six"}],
}
LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def show(said):
    text = [part.text for part in said.message.content or []]
    calls = [(call.id, call.function.name, call.function.arguments) for call in said.message.tool_calls or []]
    print(text, calls, said.finish_reason, said.usage.tokens)


def events(stream):
    for event in stream:
        print(event.type, getattr(event, "delta", None))


def plain():
    show(client.chat(**CHAT, max_tokens=100))
    vectors = client.embed(
        model="embed-x", texts=["a b c"], input_type="search_query", embedding_types=["float"]
    )
    print(vectors.embeddings.float_)


def stream():
    events(client.chat_stream(**CHAT))


async def asynchronous():
    async for event in cohere.AsyncClientV2(api_key="any").chat_stream(**CHAT):
        print(event.type, getattr(event, "delta", None))


def tool():
    show(client.chat(**CHAT, tools=[LOOK]))
    events(client.chat_stream(**CHAT, tools=[LOOK]))


def attempt(model):
    try:
        show(client.chat(**{**CHAT, "model": model}))
    except ApiError as error:
        print(type(error).__name__, error.status_code, error.body["message"])


def unknown():
    attempt("no-such-model")


def forbidden():
    attempt("command-forbidden")


for name in sys.argv[1:]:
    call = globals()[name]
    asyncio.run(call()) if asyncio.iscoroutinefunction(call) else call()
