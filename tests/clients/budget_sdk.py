"""Calls of the providers' SDKs, one after the other or at the same time, and what becomes of each.

    budget_sdk.py openai|responses|anthropic MODEL WORDS LIMIT plain|stream|leave COUNT [AT_ONCE]

The model says as many words as the user did. `leave` goes away after the first words of a stream. Each call prints a line:
how many words came, why it ended, what its use is said to be; or the error that its user sees, and behind how many words.
"""
import concurrent.futures
import sys

import anthropic
import openai

API, MODEL, WORDS, LIMIT, FORM, COUNT = sys.argv[1:7]
AT_ONCE = int(sys.argv[7]) if len(sys.argv) > 7 else 1
SAID = "one " * int(WORDS)
USER = [{"role": "user", "content": SAID}]
LIMITED = int(LIMIT)

if API == "anthropic":
    client = anthropic.Anthropic(api_key="any")
else:
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


CALLS = {"openai": chat, "responses": responses, "anthropic": messages}


def call(_):
    try:
        return " ".join(str(it) for it in CALLS[API]())
    except (openai.OpenAIError, anthropic.AnthropicError) as error:
        told = f"{type(error).__name__} {getattr(error, 'status_code', '-')} {error}"
        return f"{told} behind {getattr(error, 'behind', 0)} words"


with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
    for line in pool.map(call, range(int(COUNT))):
        print(line.replace("\n", " "), flush=True)
