"""The A2A SDK's client as its users call it: in which binding and version it speaks, where the agent is, and what it does there
are its arguments."""
import asyncio
import sys

import httpx
from a2a.client import A2ACardResolver, ClientConfig, ClientFactory
from a2a.helpers.proto_helpers import get_message_text, new_text_message
from a2a.types import (
    CancelTaskRequest,
    GetExtendedAgentCardRequest,
    GetTaskRequest,
    Role,
    SendMessageRequest,
    TaskState,
)

BINDING, VERSION, URL, *WHAT = sys.argv[1:]


def told(event):
    match event.WhichOneof("payload"):
        case "message":
            return get_message_text(event.message)
        case "task":
            return f"task {TaskState.Name(event.task.status.state)}"
        case "status_update":
            return TaskState.Name(event.status_update.status.state)
        case "artifact_update":
            return f"artifact {event.artifact_update.artifact.name}"


async def main():
    async with httpx.AsyncClient() as http:
        card = await A2ACardResolver(http, URL).get_agent_card()
        spoken = [
            interface
            for interface in card.supported_interfaces
            if (interface.protocol_binding, interface.protocol_version) == (BINDING, VERSION)
        ]
        del card.supported_interfaces[:]
        card.supported_interfaces.extend(spoken)
        task = None
        for what in WHAT:
            streaming = what.startswith("stream ")
            config = ClientConfig(
                httpx_client=http, streaming=streaming, supported_protocol_bindings=[BINDING]
            )
            client = ClientFactory(config).create(card)
            try:
                if what == "card":
                    print(card.skills[0].description)
                elif what == "again":
                    print((await A2ACardResolver(http, URL).get_agent_card()).skills[0].description)
                elif what == "lost":
                    await client.get_task(GetTaskRequest(id="nowhere"))
                elif what == "extended":
                    request = GetExtendedAgentCardRequest()
                    print((await client.get_extended_agent_card(request)).skills[0].description)
                elif what == "task":
                    found = await client.get_task(GetTaskRequest(id=task))
                    print(TaskState.Name(found.status.state))
                elif what == "cancel":
                    gone = await client.cancel_task(CancelTaskRequest(id=task))
                    print(TaskState.Name(gone.status.state))
                else:
                    text = what.removeprefix("stream ")
                    message = new_text_message(text, role=Role.ROLE_USER)
                    request = SendMessageRequest(message=message)
                    async for event in client.send_message(request):
                        if event.HasField("task"):
                            task = event.task.id
                        print(told(event))
            except Exception as error:
                print(type(error).__name__, error)


asyncio.run(main())
