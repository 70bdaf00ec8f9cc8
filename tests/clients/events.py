"""`httpx` and an event stream in gzip: the second half of it waits for another request."""
import httpx

SITE = "https://api.example.com"
HEADERS = {"Accept-Encoding": "gzip", "X-Hold": "yes"}

for http2 in [False, True]:
    with httpx.Client(http2=http2) as client:
        with client.stream("GET", SITE + "/sse/6", headers=HEADERS) as answer:
            print(answer.http_version, answer.headers["content-encoding"])
            lines = (line for line in answer.iter_lines() if line.startswith("data: "))
            for number, line in enumerate(lines):
                print(line)
                if number == 1:
                    print(client.get(SITE + "/bytes/5").text)
