"""Google's SDK and Anthropic's as their users call Vertex AI. Each argument names a call."""
import sys

import anthropic
from google import genai
from google.genai import errors, types
from google.oauth2.credentials import Credentials

SENTENCE = "one two three four five six"
LOOK = types.Tool(function_declarations=[{"name": "look", "description": "Looks."}])
TOOLS = types.GenerateContentConfig(
    tools=[LOOK],
    automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
)
CLAUDE = {
    "model": "claude-haiku-4-5@20251001",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": SENTENCE}],
}
CLAUDE_LOOK = {"name": "look", "input_schema": {"type": "object"}}


google = genai.Client(
    vertexai=True, project="p", location="us-central1", credentials=Credentials("any")
)
claude = anthropic.AnthropicVertex(project_id="p", region="us-central1", access_token="any")


def show(chunk):
    for part in chunk.candidates[0].content.parts:
        call = part.function_call
        print(part.text, call and (call.name, call.args), chunk.candidates[0].finish_reason)
    usage = chunk.usage_metadata
    print(usage.prompt_token_count, usage.candidates_token_count, usage.total_token_count)


def gemini():
    models = google.models
    show(models.generate_content(model="gemini-x", contents=SENTENCE))
    print(models.count_tokens(model="gemini-x", contents=SENTENCE).total_tokens)
    for chunk in models.generate_content_stream(model="gemini-x", contents=SENTENCE):
        show(chunk)


def gemini_tool():
    models = google.models
    show(models.generate_content(model="gemini-x", contents=SENTENCE, config=TOOLS))
    for chunk in models.generate_content_stream(model="gemini-x", contents=SENTENCE, config=TOOLS):
        show(chunk)


def gemini_forbidden():
    try:
        show(google.models.generate_content(model="gemini-forbidden", contents=SENTENCE))
    except errors.APIError as error:
        print(type(error).__name__, error.code, error.status, error.message)


def told(message):
    print([block.model_dump() for block in message.content], message.stop_reason)
    print(message.usage.input_tokens, message.usage.output_tokens)


def anthropic_s():
    messages = claude.messages
    told(messages.create(**CLAUDE))
    with messages.stream(**CLAUDE) as stream:
        for word in stream.text_stream:
            print(word)
        told(stream.get_final_message())
    asked = {key: CLAUDE[key] for key in ["model", "messages"]}
    print(messages.count_tokens(**asked).input_tokens)


def anthropic_s_tool():
    messages = claude.messages
    told(messages.create(**CLAUDE, tools=[CLAUDE_LOOK]))
    with messages.stream(**CLAUDE, tools=[CLAUDE_LOOK]) as stream:
        told(stream.get_final_message())


def anthropic_s_forbidden():
    try:
        told(claude.messages.create(**{**CLAUDE, "model": "claude-forbidden"}))
    except anthropic.APIStatusError as error:
        print(type(error).__name__, error)


for name in sys.argv[1:]:
    globals()[name]()
