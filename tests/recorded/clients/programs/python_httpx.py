"""A client of httpx."""

import json
import os

import httpx

body = json.loads(os.environ["BODY"]) if os.environ["METHOD"] == "POST" else None
with httpx.Client(headers={"Authorization": f"Key {os.environ['TOKEN']}"}) as client:
    for _ in range(int(os.environ["TIMES"])):
        client.request(os.environ["METHOD"], os.environ["URL"], json=body).raise_for_status()
print(httpx.__version__)
