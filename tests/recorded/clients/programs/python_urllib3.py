"""A pool of urllib3, without the headers that python-requests adds."""

import json
import os

import urllib3

body = json.loads(os.environ["BODY"]) if os.environ["METHOD"] == "POST" else None
pool = urllib3.PoolManager(headers={"Authorization": f"Key {os.environ['TOKEN']}"})
for _ in range(int(os.environ["TIMES"])):
    assert pool.request(os.environ["METHOD"], os.environ["URL"], json=body).status == 200
print(urllib3.__version__)
