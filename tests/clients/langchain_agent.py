"""A LangChain agent with one tool, as its users make one. Each argument names a call."""
import sys

import openai
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI

ASKED = {"messages": [{"role": "user", "content": "one two three four five six"}]}


def look(said: str) -> str:
    """Looks."""
    return f"saw {said}"


def agent(model):
    return create_agent(ChatOpenAI(model=model, api_key="any"), tools=[look])


def show(message):
    calls = [(call["name"], call["args"]) for call in getattr(message, "tool_calls", [])]
    usage = getattr(message, "usage_metadata", None) or {}
    print(message.type, repr(message.content), calls, usage.get("input_tokens"), usage.get("output_tokens"))


def whole(model="gpt-5-mini"):
    for message in agent(model).invoke(ASKED)["messages"]:
        show(message)


def stream():
    for chunk, _ in agent("gpt-5-mini").stream(ASKED, stream_mode="messages"):
        show(chunk)


def forbidden():
    try:
        whole("gpt-forbidden")
    except openai.APIStatusError as error:
        print(type(error).__name__, error)


for name in sys.argv[1:]:
    globals()[name]()
