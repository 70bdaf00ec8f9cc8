"""Ollama's client as its users call it. Each argument names a call."""
import asyncio
import sys

import ollama

HOST = "https://ollama.corp.example:443"
client = ollama.Client(host=HOST)
CHAT = {
    "model": "qwen3:8b",
    "messages": [{"role": "user", "content": "one two three four five six"}],
}
LOOK = {"type": "function", "function": {"name": "look", "description": "Looks."}}


def show(part):
    calls = [(call.function.name, call.function.arguments) for call in part.message.tool_calls or []]
    print(part.message.content, calls, part.done_reason, part.prompt_eval_count, part.eval_count)


def plain():
    show(client.chat(**CHAT, options={"num_predict": 100}))
    print(client.embed(model="qwen3-embedding", input="a b c").embeddings)


def stream():
    for part in client.chat(**CHAT, stream=True):
        show(part)


async def asynchronous():
    async for part in await ollama.AsyncClient(host=HOST).chat(**CHAT, stream=True):
        show(part)


def tool():
    show(client.chat(**CHAT, tools=[LOOK]))
    for part in client.chat(**CHAT, tools=[LOOK], stream=True):
        show(part)


def attempt(model):
    try:
        show(client.chat(**{**CHAT, "model": model}))
    except ollama.ResponseError as error:
        print(type(error).__name__, error.status_code, error.error)


def unknown():
    attempt("no-such-model")


def forbidden():
    attempt("qwen3:forbidden")


for name in sys.argv[1:]:
    call = globals()[name]
    asyncio.run(call()) if asyncio.iscoroutinefunction(call) else call()
