"""Calls of the providers' SDKs, one after the other or at the same time, and what becomes of each.

    budget_sdk.py openai|responses|anthropic|genai MODEL WORDS LIMIT plain|stream|leave|patient COUNT [AT_ONCE]

The model says as many words as the user did. `leave` goes away after the first words of a stream. Each call prints a line:
how many words came, why it ended, what its use is said to be; or the error that its user sees, and behind how many words.
`patient` streams, and its line ends with `slept` and for how many seconds its SDK slept each time before it tried again.
Google's never tries again unless it is told to, as it is there.
"""
import concurrent.futures
import sys
import threading
import time

API, MODEL, WORDS, LIMIT, FORM, COUNT = sys.argv[1:7]
AT_ONCE = int(sys.argv[7]) if len(sys.argv) > 7 else 1
SAID = "one " * int(WORDS)
USER = [{"role": "user", "content": SAID}]
LIMITED = int(LIMIT)

# Each takes seconds to be read.
if API == "anthropic":
    import anthropic

    Refused = anthropic.AnthropicError
    client = anthropic.Anthropic(api_key="any")
elif API == "genai":
    from google import genai
    from google.genai import errors, types

    Refused = errors.APIError
    again = types.HttpRetryOptions() if FORM == "patient" else None
    client = genai.Client(api_key="any", http_options=types.HttpOptions(retry_options=again))
else:
    import openai

    Refused = openai.OpenAIError
    client = openai.OpenAI(api_key="any")


def words(text):
    return len(text.split())


def chat():
    asked = {"model": MODEL, "messages": USER, "max_tokens": LIMITED}
    if FORM == "plain":
        done = client.chat.completions.create(**asked)
        choice = done.choices[0]
        return words(choice.message.content), choice.finish_reason, done.usage.completion_tokens
    options = {"include_usage": True}
    text, finish, used = "", None, None
    try:
        for chunk in client.chat.completions.create(**asked, stream=True, stream_options=options):
            for choice in chunk.choices:
                text += choice.delta.content or ""
                finish = choice.finish_reason or finish
            if chunk.usage:
                used = chunk.usage.completion_tokens
            if FORM == "leave" and words(text) >= 3:
                client.close()
                return words(text), "left", used
    except openai.APIError as error:
        error.behind = words(text)
        raise
    return words(text), finish, used


def responses():
    asked = {"model": MODEL, "input": SAID, "max_output_tokens": LIMITED}
    if FORM == "plain":
        done = client.responses.create(**asked)
        return words(done.output_text), done.status, done.usage.output_tokens
    text, finish, used = "", None, None
    for event in client.responses.create(**asked, stream=True):
        text += getattr(event, "delta", "")
        if event.type in ("response.completed", "response.incomplete"):
            finish, used = event.response.status, event.response.usage.output_tokens
    return words(text), finish, used


def messages():
    asked = {"model": MODEL, "messages": USER, "max_tokens": LIMITED}
    if FORM == "plain":
        done = client.messages.create(**asked)
        return words(done.content[0].text), done.stop_reason, done.usage.output_tokens
    text, finish, used = "", None, None
    with client.messages.stream(**asked) as stream:
        for event in stream:
            if event.type == "text":
                text += event.text
            if event.type == "message_delta":
                finish, used = event.delta.stop_reason, event.usage.output_tokens
    return words(text), finish, used


def contents():
    asked = {"model": MODEL, "contents": SAID, "config": types.GenerateContentConfig(max_output_tokens=LIMITED)}
    if FORM == "plain":
        parts = [client.models.generate_content(**asked)]
    else:
        parts = client.models.generate_content_stream(**asked)
    text, finish, used = "", None, None
    for part in parts:
        text += part.text or ""
        finish = part.candidates[0].finish_reason or finish
        used = part.usage_metadata.candidates_token_count or used
    return words(text), finish and finish.name, used


CALLS = {"openai": chat, "responses": responses, "anthropic": messages, "genai": contents}
mine = threading.local()
sleep = time.sleep


def noted(seconds):
    if hasattr(mine, "slept"):
        mine.slept.append(seconds)
    sleep(seconds)


time.sleep = noted


def call(_):
    mine.slept = []
    try:
        line = " ".join(str(it) for it in CALLS[API]())
    except Refused as error:
        status = getattr(error, "status_code", None) or getattr(error, "code", None) or "-"
        told = f"{type(error).__name__} {status} {error}"
        line = f"{told} behind {getattr(error, 'behind', 0)} words"
    return line + "".join(f" slept {it:.1f}" for it in mine.slept if FORM == "patient")


with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
    for line in pool.map(call, range(int(COUNT))):
        print(line.replace("\n", " "), flush=True)
