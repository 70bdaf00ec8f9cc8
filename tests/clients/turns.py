"""Turns on one WebSocket of OpenAI's Responses.

turns.py MODEL WORDS [MODEL WORDS ...]. Asks each model for so many words, one after the other on the same connection.
Prints `MODEL began` with the first words of an answer, and at its end its model, the type of the event that ends it, its
error's reason and how many words came.
"""

import asyncio
import json
import sys

import websockets

URL = "wss://api.openai.com/v1/responses"
TOOL = {"type": "function", "name": "exec_command", "parameters": {"type": "object", "properties": {}}}


async def turn(connection, model, words):
    text = [{"type": "message", "role": "user", "content": f"write {words} words, then run the tool"}]
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
                reason = event.get("error", {}).get("reason")
                print(f"{model} {kind} {reason} {came}", flush=True)
                return


async def main():
    turns = list(zip(sys.argv[1::2], sys.argv[2::2]))
    async with websockets.connect(URL, additional_headers={"authorization": "Bearer any"}) as connection:
        for model, words in turns:
            await turn(connection, model, int(words))


asyncio.run(main())
