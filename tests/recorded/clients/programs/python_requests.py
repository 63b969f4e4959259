"""A session of python-requests."""

import json
import os

import requests

session = requests.Session()
session.headers["Authorization"] = f"Key {os.environ['TOKEN']}"
body = json.loads(os.environ["BODY"]) if os.environ["METHOD"] == "POST" else None
for _ in range(int(os.environ["TIMES"])):
    session.request(os.environ["METHOD"], os.environ["URL"], json=body, timeout=10).raise_for_status()
print(requests.__version__)
