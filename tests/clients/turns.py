"""Turns on one WebSocket of OpenAI's Responses.

turns.py MODEL WORDS [MODEL WORDS ...]. Asks each model for so many words, slowly with a `~` behind the number, or to `fail`, one after the other on the same
connection. Prints `MODEL began` with the first words of an answer, and at its end its model, the type of the event that ends it, its
error's reason, else its code, and how many words came.
"""

import asyncio
import json
import sys

import websockets

URL = "wss://api.openai.com/v1/responses"
TOOL = {"type": "function", "name": "exec_command", "parameters": {"type": "object", "properties": {}}}


async def turn(connection, model, words):
    wanted = "fail now" if words == "fail" else f"write {words.rstrip('~')} words, then run the tool"
    if words.endswith("~"):
        wanted += ", slowly"
    text = [{"type": "message", "role": "user", "content": wanted}]
    await connection.send(json.dumps({"type": "response.create", "model": model, "input": text, "tools": [TOOL]}))
    came = 0
    while True:
        event = json.loads(await connection.recv())
        match event["type"]:
            case "response.output_text.delta":
                if not came:
                    print(f"{model} began", flush=True)
                came += len(event["delta"].split())
            case "response.completed" | "response.incomplete" | "response.failed" | "error" as kind:
                error = event.get("error", {})
                reason = error.get("reason") or error.get("code")
                print(f"{model} {kind} {reason} {came}", flush=True)
                return


async def main():
    turns = list(zip(sys.argv[1::2], sys.argv[2::2]))
    async with websockets.connect(URL, additional_headers={"authorization": "Bearer any"}) as connection:
        for model, words in turns:
            await turn(connection, model, words)


asyncio.run(main())
