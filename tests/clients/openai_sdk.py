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


def legacy():
    prompt = {"model": "gpt-3.5-turbo-instruct", "prompt": SENTENCE, "max_tokens": 100}
    done = client.completions.create(**prompt)
    print(done.choices[0].text, done.choices[0].finish_reason, done.usage.total_tokens)
    usage = {"include_usage": True}
    for chunk in client.completions.create(**prompt, stream=True, stream_options=usage):
        print([(it.text, it.finish_reason) for it in chunk.choices], chunk.usage)


CHAT_LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def chats(client, model):
    chat = {**CHAT, "model": model}
    done = client.chat.completions.create(**chat)
    print(done.model, done.choices[0].message.content, done.usage.total_tokens)
    for chunk in client.chat.completions.create(**{**STREAM, "model": model}):
        show(chunk)
    [call] = client.chat.completions.create(**chat, tools=[CHAT_LOOK]).choices[0].message.tool_calls
    print(call.id, call.function.name, call.function.arguments)
    stream = {**STREAM, "model": model, "tools": [CHAT_LOOK]}
    for chunk in client.chat.completions.create(**stream):
        for choice in chunk.choices:
            calls = choice.delta.tool_calls or []
            print([(it.id, it.function.name, it.function.arguments) for it in calls], choice.finish_reason)


def azure_client(**more):
    endpoint = "https://corp.openai.azure.com"
    more = {"azure_endpoint": endpoint, "api_key": "any", "api_version": "2024-10-21", **more}
    return openai.AzureOpenAI(**more)


def azure():
    chats(azure_client(), MODEL)


# A deployment may have any name, and is what is called, whatever model the content names.
def azure_deployed():
    done = azure_client(azure_deployment=MODEL).chat.completions.create(**{**CHAT, "model": "gpt-forbidden"})
    print(done.model, done.choices[0].message.content, done.usage.total_tokens)


def azure_forbidden():
    client = azure_client(azure_deployment="gpt-forbidden")
    attempt(lambda: client.chat.completions.create(**CHAT))


def mistral():
    chats(openai.OpenAI(api_key="any", base_url="https://mistral.corp.example/v1"), "mistral-small-x")


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
