"""An agent by the A2A SDK, on the port, with the certificate and its key, whose card says of its one skill what is in the
file: its arguments. It is spoken to in JSON-RPC at `/rpc` and in HTTP+JSON below `/rest`, by clients of 1.0 and of 0.3. It
prints each message that reaches it, and answers it. One that begins with `do`, `make` or `fail` has a task, which it prints
too: it waits until it is told to end, makes two artifacts, or fails. One that begins with `become` changes the card."""
import asyncio
import socket
import sys

import uvicorn
from a2a.helpers.proto_helpers import (
    get_message_text,
    new_task_from_user_message,
    new_text_artifact_update_event,
    new_text_message,
    new_text_status_update_event,
)
from a2a.server.agent_execution import AgentExecutor
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes, create_rest_routes
from a2a.server.tasks import InMemoryTaskStore
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, AgentSkill, TaskState
from starlette.applications import Starlette

PORT, CERTIFICATE, KEY, DESCRIPTION, HOST = sys.argv[1:6]


def described():
    with open(DESCRIPTION) as file:
        return file.read()


def interfaces():
    for binding, path in [("JSONRPC", "rpc"), ("HTTP+JSON", "rest")]:
        for version in ["1.0", "0.3"]:
            url = f"https://{HOST}:{PORT}/{path}"
            yield AgentInterface(protocol_binding=binding, protocol_version=version, url=url)


card = AgentCard(
    name="planner",
    description="Plans.",
    version="1",
    supported_interfaces=list(interfaces()),
    capabilities=AgentCapabilities(streaming=True, extended_agent_card=True),
    default_input_modes=["text/plain"],
    default_output_modes=["text/plain"],
    skills=[AgentSkill(id="plan", name="plan", description=described(), tags=["plan"])],
)


async def current(card, *_context):
    now = AgentCard()
    now.CopyFrom(card)
    now.skills[0].description = described()
    return now


ENDS = {
    "do": TaskState.TASK_STATE_INPUT_REQUIRED,
    "make": TaskState.TASK_STATE_COMPLETED,
    "fail": TaskState.TASK_STATE_FAILED,
}


class Planner(AgentExecutor):
    async def execute(self, context, events):
        text = get_message_text(context.message)
        print("got", text, flush=True)
        word, _, rest = text.partition(" ")
        if word == "become":
            with open(DESCRIPTION, "w") as file:
                file.write(rest)
        if word not in ENDS:
            await events.enqueue_event(new_text_message(f"{text}, too"))
            return
        task = context.current_task or new_task_from_user_message(context.message)
        print("task", task.id, task.context_id, flush=True)
        await events.enqueue_event(task)
        working = TaskState.TASK_STATE_WORKING
        await events.enqueue_event(
            new_text_status_update_event(task.id, task.context_id, working, text)
        )
        for name in ["one", "two"] if word == "make" else []:
            await events.enqueue_event(
                new_text_artifact_update_event(task.id, task.context_id, name, text)
            )
        await events.enqueue_event(
            new_text_status_update_event(task.id, task.context_id, ENDS[word], text)
        )

    async def cancel(self, context, events):
        print("cancelled", flush=True)
        state = TaskState.TASK_STATE_CANCELED
        task = context.current_task
        await events.enqueue_event(
            new_text_status_update_event(task.id, task.context_id, state, "cancelled")
        )


def main():
    handler = DefaultRequestHandler(
        agent_executor=Planner(),
        task_store=InMemoryTaskStore(),
        agent_card=card,
        extended_agent_card=card,
        extended_card_modifier=current,
    )
    app = Starlette(
        routes=[
            *create_agent_card_routes(card, card_modifier=current),
            *create_jsonrpc_routes(handler, "/rpc", enable_v0_3_compat=True),
            *create_rest_routes(handler, enable_v0_3_compat=True, path_prefix="/rest"),
        ]
    )
    # Longer than a client may be silent in these tests: a request that meets the end of its connection is lost.
    options = {"log_level": "warning", "timeout_keep_alive": 60}
    config = uvicorn.Config(app, ssl_certfile=CERTIFICATE, ssl_keyfile=KEY, **options)
    listener = socket.create_server(("", int(PORT)), family=socket.AF_INET6, dualstack_ipv6=True)
    print("serving", flush=True)
    asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))


main()
