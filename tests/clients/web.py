"""`requests` over HTTP/1.1 and `httpx` over HTTP/2: one of them is the argument."""
import sys

import httpx
import requests

SITE = "https://api.openai.com"
HEADERS = {"Authorization": "Bearer any"}
CHAT = {
    "model": "gpt-5-mini",
    "messages": [{"role": "user", "content": "one two three four five six"}],
    "stream": True,
}
LARGE = b"x" * (8 << 20)


def read(lines, other):
    """Prints a stream. The second half of it waits for another request."""
    for number, line in enumerate(line for line in lines if line):
        print(line if isinstance(line, str) else line.decode())
        if number == 1:
            print(other().json()["object"])


def over_requests():
    with requests.Session() as session:
        session.headers.update(HEADERS)
        answer = session.get(SITE + "/v1/models")
        print(answer.status_code, answer.headers["content-type"], answer.json()["object"])
        hold = {"x-hold": "yes"}
        with session.post(SITE + "/v1/chat/completions", json=CHAT, headers=hold, stream=True) as answer:
            read(answer.iter_lines(), lambda: session.get(SITE + "/v1/models"))
        print(len(session.get(SITE + "/chunked/300000").content))
        refused(session.delete(SITE + "/things/1"))
        refused(session.post(SITE + "/v1/files", data=LARGE))


def over_httpx():
    with httpx.Client(http2=True, headers=HEADERS) as client:
        answer = client.get(SITE + "/v1/models")
        print(answer.http_version, answer.status_code, answer.json()["object"])
        hold = {"x-hold": "yes"}
        with client.stream("POST", SITE + "/v1/chat/completions", json=CHAT, headers=hold) as answer:
            read(answer.iter_lines(), lambda: client.get(SITE + "/v1/models"))
        print(len(client.get(SITE + "/chunked/300000").content))
        refused(client.delete(SITE + "/things/1"))
        refused(client.post(SITE + "/v1/files", content=LARGE))


def refused(answer):
    if answer.status_code != 403:
        print("served", answer.status_code)
        return
    problem = answer.json()
    print(answer.status_code, problem["code"], problem["detail"])


{"requests": over_requests, "httpx": over_httpx}[sys.argv[1]]()
