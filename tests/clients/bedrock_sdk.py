"""AWS's SDK as users of Bedrock call it. Each argument names a call."""
import json
import sys

import boto3
from botocore.exceptions import ClientError

client = boto3.client(
    "bedrock-runtime",
    region_name="us-east-1",
    aws_access_key_id="any",
    aws_secret_access_key="any",
)
SENTENCE = "one two three four five six"
CHAT = {
    "modelId": "anthropic.claude-x-v1:0",
    "messages": [{"role": "user", "content": [{"text": SENTENCE}]}],
    "inferenceConfig": {"maxTokens": 100},
}
LOOK = {"toolSpec": {"name": "look", "inputSchema": {"json": {"type": "object"}}}}
INVOKED = json.dumps(
    {
        "anthropic_version": "bedrock-2023-05-31",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": SENTENCE}],
    }
)


def show(said):
    print(said["output"]["message"], said["stopReason"], said["usage"])


def events(said):
    for event in said["stream"]:
        for kind, event in event.items():
            event.pop("p", None)
            print(kind, event)


def plain():
    show(client.converse(**CHAT))


def stream():
    events(client.converse_stream(**CHAT))


def tool():
    show(client.converse(**CHAT, toolConfig={"tools": [LOOK]}))
    events(client.converse_stream(**CHAT, toolConfig={"tools": [LOOK]}))


def invoke():
    said = client.invoke_model(modelId="us.anthropic.claude-x-v1:0", body=INVOKED)
    print(json.loads(said["body"].read()))
    said = client.invoke_model_with_response_stream(
        modelId="us.anthropic.claude-x-v1:0", body=INVOKED
    )
    for event in said["body"]:
        print(json.loads(event["chunk"]["bytes"]))


def attempt(model):
    try:
        show(client.converse(**{**CHAT, "modelId": model}))
    except ClientError as error:
        print(type(error).__name__, error)


def unknown():
    attempt("no.such-model")


def forbidden():
    attempt("anthropic.claude-forbidden")


def unread():
    # Its vendor's form is not read.
    try:
        print(client.invoke_model(modelId="meta.llama-x", body="{}"))
    except ClientError as error:
        print(type(error).__name__, error)


for name in sys.argv[1:]:
    globals()[name]()
