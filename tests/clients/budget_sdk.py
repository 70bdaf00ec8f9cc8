"""Calls of the providers' SDKs, one after the other or at the same time, and what becomes of each.

    budget_sdk.py API MODEL WORDS LIMIT plain|stream|leave|patient|regardless|slowly COUNT [AT_ONCE]

API: openai, responses, anthropic, genai, bedrock (Converse), invoke (Bedrock's, of Anthropic's models), cohere or ollama.

The model says as many words as the user did. `leave` goes away after the first words of a stream. Each call prints a line:
how many words came, why it ended, what its use is said to be; or the error that its user sees, and behind how many words.
`patient` streams, and its line ends with `slept` and for how many seconds its SDK slept each time before it tried again.
Google's never tries again unless it is told to, as it is there; Cohere's tries no stream again, so that there it is none.
`regardless` streams, and has the model keep to no limit; `slowly` streams, and has it take five times as long.
"""
import concurrent.futures
import json
import sys
import threading
import time

API, MODEL, WORDS, LIMIT, FORM, COUNT = sys.argv[1:7]
AT_ONCE = int(sys.argv[7]) if len(sys.argv) > 7 else 1
SAID = ("regardless " if FORM == "regardless" else "") + "one " * int(WORDS)
if FORM == "slowly":
    SAID = SAID.replace("one", "slowly", 1)
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
elif API in ("bedrock", "invoke"):
    import boto3
    import botocore.exceptions

    Refused = botocore.exceptions.ClientError
    client = boto3.client(
        "bedrock-runtime",
        region_name="us-east-1",
        aws_access_key_id="any",
        aws_secret_access_key="any",
    )
elif API == "cohere":
    import cohere
    from cohere.core.api_error import ApiError

    Refused = ApiError
    client = cohere.ClientV2(api_key="any")
elif API == "ollama":
    import ollama

    Refused = ollama.ResponseError
    client = ollama.Client(host="https://ollama.corp.example:443")
else:
    import openai

    Refused = openai.OpenAIError
    client = openai.OpenAI(api_key="any")


def aws_status(error):
    response = getattr(error, "response", None)
    return response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None


def words(text):
    return len(text.split())


def say(piece):
    """What came, as it comes: an error may be behind it."""
    mine.text += piece or ""


def chat():
    asked = {"model": MODEL, "messages": USER, "max_tokens": LIMITED}
    if FORM == "plain":
        done = client.chat.completions.create(**asked)
        choice = done.choices[0]
        say(choice.message.content)
        return choice.finish_reason, done.usage.completion_tokens
    options = {"include_usage": True}
    finish, used = None, None
    for chunk in client.chat.completions.create(**asked, stream=True, stream_options=options):
        for choice in chunk.choices:
            say(choice.delta.content)
            finish = choice.finish_reason or finish
        if chunk.usage:
            used = chunk.usage.completion_tokens
        if FORM == "leave" and words(mine.text) >= 3:
            client.close()
            return "left", used
    return finish, used


def responses():
    asked = {"model": MODEL, "input": SAID, "max_output_tokens": LIMITED}
    if FORM == "plain":
        done = client.responses.create(**asked)
        say(done.output_text)
        return done.status, done.usage.output_tokens
    finish, used = None, None
    for event in client.responses.create(**asked, stream=True):
        say(getattr(event, "delta", ""))
        if event.type in ("response.completed", "response.incomplete"):
            finish, used = event.response.status, event.response.usage.output_tokens
    return finish, used


def messages():
    asked = {"model": MODEL, "messages": USER, "max_tokens": LIMITED}
    if FORM == "plain":
        done = client.messages.create(**asked)
        say(done.content[0].text)
        return done.stop_reason, done.usage.output_tokens
    finish, used = None, None
    with client.messages.stream(**asked) as stream:
        for event in stream:
            if event.type == "text":
                say(event.text)
            if event.type == "message_delta":
                finish, used = event.delta.stop_reason, event.usage.output_tokens
    return finish, used


def contents():
    quiet = types.ThinkingConfig(thinking_budget=0)
    config = types.GenerateContentConfig(max_output_tokens=LIMITED, thinking_config=quiet)
    asked = {"model": MODEL, "contents": SAID, "config": config}
    if FORM == "plain":
        parts = [client.models.generate_content(**asked)]
    else:
        parts = client.models.generate_content_stream(**asked)
    finish, used = None, None
    for part in parts:
        say(part.text)
        finish = part.candidates[0].finish_reason or finish
        used = part.usage_metadata.candidates_token_count or used
    return finish and finish.name, used


def converse():
    user = [{"role": "user", "content": [{"text": SAID}]}]
    asked = {"modelId": MODEL, "messages": user, "inferenceConfig": {"maxTokens": LIMITED}}
    if FORM == "plain":
        done = client.converse(**asked)
        say(done["output"]["message"]["content"][0]["text"])
        return done["stopReason"], done["usage"]["outputTokens"]
    finish, used = None, None
    for event in client.converse_stream(**asked)["stream"]:
        say(event.get("contentBlockDelta", {}).get("delta", {}).get("text"))
        finish = event.get("messageStop", {}).get("stopReason", finish)
        used = event.get("metadata", {}).get("usage", {}).get("outputTokens", used)
    return finish, used


def invoke():
    body = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": LIMITED, "messages": USER}
    asked = {"modelId": MODEL, "body": json.dumps(body)}
    if FORM == "plain":
        done = json.loads(client.invoke_model(**asked)["body"].read())
        say(done["content"][0]["text"])
        return done["stop_reason"], done["usage"]["output_tokens"]
    finish, used = None, None
    for event in client.invoke_model_with_response_stream(**asked)["body"]:
        event = json.loads(event["chunk"]["bytes"])
        if event["type"] == "content_block_delta":
            say(event["delta"]["text"])
        if event["type"] == "message_delta":
            finish, used = event["delta"]["stop_reason"], event["usage"]["output_tokens"]
    return finish, used


def cohere_chat():
    asked = {"model": MODEL, "messages": USER, "max_tokens": LIMITED}
    if FORM in ("plain", "patient"):
        done = client.chat(**asked)
        say(done.message.content[0].text)
        return done.finish_reason, int(done.usage.tokens.output_tokens)
    finish, used = None, None
    for event in client.chat_stream(**asked):
        if event.type == "content-delta":
            say(event.delta.message.content.text)
        if event.type == "message-end":
            # Its user is told of an error here.
            finish = " ".join(it for it in (event.delta.finish_reason, event.delta.error) if it)
            used = event.delta.usage and int(event.delta.usage.tokens.output_tokens)
    return finish, used


def ollama_chat():
    asked = {"model": MODEL, "messages": USER, "options": {"num_predict": LIMITED}}
    parts = [client.chat(**asked)] if FORM == "plain" else client.chat(**asked, stream=True)
    finish, used = None, None
    for part in parts:
        say(part.message.content)
        finish, used = part.done_reason or finish, part.eval_count or used
    return finish, used


CALLS = {
    "openai": chat,
    "responses": responses,
    "anthropic": messages,
    "genai": contents,
    "bedrock": converse,
    "invoke": invoke,
    "cohere": cohere_chat,
    "ollama": ollama_chat,
}
mine = threading.local()
sleep = time.sleep


def noted(seconds):
    if hasattr(mine, "slept"):
        mine.slept.append(seconds)
    sleep(seconds)


time.sleep = noted


def call(_):
    mine.slept, mine.text = [], ""
    try:
        finish, used = CALLS[API]()
        line = f"{words(mine.text)} {finish} {used}"
    except Refused as error:
        status = getattr(error, "status_code", None) or getattr(error, "code", None) or aws_status(error) or "-"
        line = f"{type(error).__name__} {status} {error} behind {words(mine.text)} words"
    return line + "".join(f" slept {it:.1f}" for it in mine.slept if FORM == "patient")


with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
    for line in pool.map(call, range(int(COUNT))):
        print(line.replace("\n", " "), flush=True)
