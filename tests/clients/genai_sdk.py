"""Google's SDK as its users call it. Each argument names a call."""
import asyncio
import json
import sys

import requests
from google import genai
from google.genai import errors, types

SENTENCE = "one two three four five six"
LOOK = types.Tool(function_declarations=[{"name": "look", "description": "Looks."}])
TOOLS = types.GenerateContentConfig(
    tools=[LOOK],
    automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
)


client = genai.Client(api_key="any")


def show(chunk):
    for part in chunk.candidates[0].content.parts:
        call = part.function_call
        print(part.text, call and (call.name, call.args, call.id), chunk.candidates[0].finish_reason)
    usage = chunk.usage_metadata
    print(usage.prompt_token_count, usage.candidates_token_count, usage.total_token_count)


def plain():
    models = client.models
    limit = types.GenerateContentConfig(max_output_tokens=100)
    show(models.generate_content(model="gemini-x", contents=SENTENCE, config=limit))
    print(models.count_tokens(model="gemini-x", contents=SENTENCE).total_tokens)


def stream():
    for chunk in client.models.generate_content_stream(model="gemini-x", contents=SENTENCE):
        show(chunk)


async def asynchronous():
    chunks = await client.aio.models.generate_content_stream(model="gemini-x", contents=SENTENCE)
    async for chunk in chunks:
        show(chunk)


def tool():
    show(client.models.generate_content(model="gemini-x", contents=SENTENCE, config=TOOLS))
    for chunk in client.models.generate_content_stream(
        model="gemini-x", contents=SENTENCE, config=TOOLS
    ):
        show(chunk)


def read_list(tools):
    """Without `alt=sse` a stream is one list: no SDK asks for that, and curl as Google's pages show it does."""
    url = "https://generativelanguage.googleapis.com/v1beta/models/gemini-x:streamGenerateContent"
    content = {"contents": [{"role": "user", "parts": [{"text": SENTENCE}]}], "tools": tools}
    with requests.post(url, json=content, headers={"x-goog-api-key": "any"}, stream=True) as answer:
        print(answer.status_code, answer.headers["content-type"])
        # What breaks off is an error of the client's.
        pieces = list(answer.iter_content(None))
    for item in json.loads(b"".join(pieces)):
        print(json.dumps(item))


def listed():
    read_list([])


def listed_tool():
    read_list([{"functionDeclarations": [{"name": "look", "description": "Looks."}]}])


def attempt(model):
    try:
        show(client.models.generate_content(model=model, contents=SENTENCE))
    except errors.APIError as error:
        print(type(error).__name__, error.code, error.status, error.message)


def unknown():
    attempt("no-such-model")


def forbidden():
    attempt("gemini-forbidden")


for name in sys.argv[1:]:
    call = globals()[name]
    asyncio.run(call()) if asyncio.iscoroutinefunction(call) else call()
