"""What a description cannot say, told to the requests that are meant to be right.

A cursor is opaque, a message can answer only one that exists, and most rooms that one can think of do not exist. So
there are some rooms with something in them, and right requests get real cursors and, for reading, a real room. Wrong
requests are sent as they are.
"""

import json
import os
import re
import urllib.request
import uuid

import schemathesis
from schemathesis import GenerationMode

URL = os.environ["DARDA_URL"]
USER = "alice"
ROOMS = ["general", "random", "lobby"]
MESSAGES = []
WORDS = ["an apple", "two apples", "apple pie"]
UUID = re.compile(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")


def call(method, path, body=None, user=USER):
    request = urllib.request.Request(URL + path, method=method)
    request.add_header("x-darda-user", user)
    data = None
    if body is not None:
        request.add_header("content-type", "application/json")
        data = json.dumps(body).encode()
    with urllib.request.urlopen(request, data) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def furnish():
    for room in ROOMS:
        call("POST", "/v1/rooms", {"id": room, "kind": "public"})
        for words in WORDS:
            message = {"id": str(uuid.uuid4()), "text": words}
            call("POST", f"/v1/rooms/{room}/messages", message)
            MESSAGES.append(message["id"])
        call("PUT", f"/v1/rooms/{room}/members/me", user="bob")


def some_cursor(path):
    """A cursor of this path, from a page that holds one thing."""
    query = "?limit=1" + ("&q=apple" if path == "/v1/search" else "")
    # An index may be a second behind.
    for _ in range(100):
        cursor = call("GET", path.replace("{id}", ROOMS[0]) + query)["next"]
        if cursor is not None:
            return cursor
    raise AssertionError(f"{path} has no second page")


furnish()
CURSORS = {}


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.meta is None or case.meta.generation.mode != GenerationMode.POSITIVE:
        return
    path = case.operation.path
    if case.query and "cursor" in case.query:
        if path not in CURSORS:
            CURSORS[path] = some_cursor(path)
        case.query["cursor"] = CURSORS[path]
    if case.method == "GET" and path.startswith("/v1/rooms/{id}"):
        # Ids that look made by a server come from an answer before.
        if not UUID.match(str(case.path_parameters["id"])):
            case.path_parameters["id"] = ROOMS[0]
    if path == "/v1/trace/{id}":
        case.path_parameters["id"] = MESSAGES[0]
        if case.query and "room" in case.query:
            case.query["room"] = ROOMS[0]
    if isinstance(case.body, dict) and path == "/v1/rooms/{id}/messages":
        case.body.pop("reply_to", None)
    if isinstance(case.body, dict) and case.body.get("kind") == "private":
        # Only public rooms choose their id.
        case.body.pop("id", None)
