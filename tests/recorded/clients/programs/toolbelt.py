"""Redash's own Python client; the paths are those that its methods use."""

import json
import os
from importlib.metadata import version
from urllib.parse import urlsplit

from redash_toolbelt import Redash

place = urlsplit(os.environ["URL"])
client = Redash(f"{place.scheme}://{place.netloc}", os.environ["TOKEN"])
for _ in range(int(os.environ["TIMES"])):
    if os.environ["METHOD"] == "POST":
        client._post(place.path.removeprefix("/"), json=json.loads(os.environ["BODY"]))
    else:
        client._get(place.path.removeprefix("/"))
print(version("redash-toolbelt"))
