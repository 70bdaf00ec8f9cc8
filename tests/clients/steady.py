"""Asks for names, or does what is denied, at a steady pace and until it is killed: names|denied SITE. Ends with 1 where
something came to another end than it should have."""

import http.client
import itertools
import random
import socket
import ssl
import sys
import time

what, site = sys.argv[1], sys.argv[2]
# What comes to no end is one for who waits for this.
socket.setdefaulttimeout(20)
TLS = ssl.create_default_context()
DENIED = ("192.0.2.66", 443)


def name():
    socket.getaddrinfo(f"name-{random.randrange(50)}.names.example.com", 443)
    return True


def denied_name(number):
    try:
        socket.getaddrinfo(f"name-{number}.elsewhere.example.net", 443)
    except socket.gaierror as error:
        # Not that nobody answers, which would be EAI_AGAIN.
        return error.errno == socket.EAI_NONAME


def denied_address():
    with socket.socket() as s:
        try:
            s.connect(DENIED)
        except PermissionError:
            return True


def denied_request():
    connection = http.client.HTTPSConnection(site, context=TLS, timeout=20)
    connection.request("DELETE", "/1k")
    status = connection.getresponse().status
    connection.close()
    return status == 403


def attempt(number):
    if what == "names":
        return name()
    kinds = [lambda: denied_name(number), denied_address, denied_request]
    return kinds[number % len(kinds)]()


pace = {"names": 0.02, "denied": 0.05}[what]
due = time.monotonic()
for number in itertools.count():
    if attempt(number) is not True:
        sys.exit(f"attempt {number} came to another end")
    due += pace
    time.sleep(max(due - time.monotonic(), 0))
