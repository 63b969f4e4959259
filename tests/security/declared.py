"""How recorded exchanges are sent through the gateway, what counts as the same response, and the declared differences
with a reason each.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from gateway import config

from .playback import Exchange, keys
from .wire import Got


def table(directory: Path, x: Exchange) -> str:
    """One client and one credential for each key of the exchange; its token is that key: requests stay as sent."""
    lines = []
    named = [name for name in sorted(keys()) if name.encode() in x.raw]
    for number, name in enumerate(named or ["USER_KEY_ADMIN"]):
        label = f"key-{number}"
        file = directory / label
        file.write_text(name)
        file.chmod(0o600)
        query = name.removeprefix("QUERY_KEY_") if name.startswith("QUERY_KEY_") else None
        kind = f'kind = "query"\nquery = {query}' if query else 'kind = "user"'
        lines.append(f'[credentials.{label}]\n{kind}\nkey_file = "{file}"')
        lines.append(f"""[clients.{label}]
token_sha256 = ["{config.token_hash(name)}"]
credentials = ["{label}"]
can = ["read", "execute", "adhoc", "write", "admin"]
text_parameters = true""")
    return "\n".join(lines)


KEYS = {"api_key", "public_url", "invite_link", "reset_link"}


def without(value: Any) -> Any:
    """What is the same in another spelling: keys set to null, the gateway's own job ids."""
    if isinstance(value, dict):
        if set(value) == {"job"} and isinstance(value["job"], dict) and "id" in value["job"]:
            return {"job": {**value["job"], "id": "its own"}}
        return {name: None if name in KEYS else without(member) for name, member in value.items()}
    return [without(item) for item in value] if isinstance(value, list) else value


def parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body


def differences(x: Exchange, ours: Got) -> list[str]:
    found = []
    if ours.status != x.status:
        found.append("status")
    for name in ("content-type", "content-disposition", "cache-control", "location"):
        recorded = x.response.get(name, "").replace("private,max-age", "private, max-age")
        mine = ours.field(name)
        if name == "cache-control" and not recorded:
            mine = ""  # Redash has nothing there; the gateway has `private, no-cache`
        if recorded != mine:
            found.append(name)
    if x.method != "HEAD" and x.body is not None:
        recorded_json, mine_json = parsed(x.body), parsed(ours.body)
        if without(recorded_json) != mine_json and without(recorded_json) != without(mine_json):
            found.append("body")
    return found


_ALIAS = re.compile(r"http:|.*(//|%|;|\\|/\./|/\.\./)|.*/(\+|0)\d")
_NO_ID = re.compile(r".*/(abc|no-such|\d+\.0|\d{19,}|0)(/|\.|$)")
_COLLISIONS = {
    "execute/param_number_spaces",
    "adhoc/saved_text_comment",
    "adhoc/saved_text_space_2",
    "adhoc/whitespace_in_literal_collides_2",
}

GET_FORM = {"max_age", "p_min_amount"}

# By name, where no rule describes it.
BY_NAME = {
    "execute/large_cached": "the recording does not hold the body whole",
    "queries/regenerated_new_key": "401: this key is in no configuration (each query has one)",
    "auth/session_cookie_login_and_query_key": "cookies are dropped; Redash would take them (CONTRACT 20.2)",
    "results_get/large_csv": "the recording does not hold the JSON whole, which says whose rows a file has",
    "results_get/large_xlsx": "nor does it for this file",
    "results_get/nested_restricted_query_allowed_rid": "403: what is below a query is closed with it (CONTRACT 20.9)",
    "results_get/dropdowns_unrelated_query_key": "403: a query key's dropdowns are those that its query declares",
    "results_get/outsider_neverrun": "403 before 404: the definition is asked first",
    "execute/outsider_unsafe": "another text of the same refusal: the definition is asked first",
    "execute/date_other_format": "400: dates are ISO 8601 only, as Redash's page sends them",
    "execute/date_whitespace_variants": "400: dates are ISO 8601 only, without white space",
    "execute/date_with_quote": "400: dates are ISO 8601 only, as a quote would end the literal in the SQL",
    "misc/schema": "the schema instead of the job that reads it: its id means nothing to callers",
    "misc/schema_refresh": "the schema instead of the job that reads it, here as well",
    "dashboards/public_post": "404: the recording's names stand for tokens of 40 characters",
}


def reason(x: Exchange, ours: Got) -> str | None:
    """Why the gateway responds differently, None if there is no good reason."""
    html = "text/html" in x.response.get("content-type", "")
    problem = ours.field("content-type") == "application/problem+json" or (x.method == "HEAD" and ours.status >= 400)
    query_key = x.key.startswith("QUERY_KEY_")
    not_found_here = ours.status == 404 and problem
    rules = {
        BY_NAME.get(x.name, ""): x.name in BY_NAME,
        "401 where Redash knows no key: its 404, redirects, pages and cookies": ours.status == 401,
        "aliases of a path are refused (CONTRACT 20.3)": ours.status in (400, 404) and _ALIAS.match(x.path),
        "pages of the front end and routes that are no API: 404, 405": ours.status in (404, 405)
        and problem
        and (html or not x.path.startswith("/api/") or x.path in ("/api/config", "/api/nonsense")),
        "OPTIONS: CORS is answered here (CONTRACT 16)": x.method == "OPTIONS" and ours.status in (204, 405),
        "405 in the gateway's words": ours.status == 405 and x.status in (405, 500) and problem,
        "400 for Redash's 500": ours.status == 400 and x.status == 500,
        "404 for Redash's 500: ids and names that are none": not_found_here and x.status == 500,
        "404 in the gateway's words: ids that are none": not_found_here and x.status == 404 and _NO_ID.match(x.path),
        "job ids are the gateway's own (DESIGN 7)": not_found_here and "/jobs/" in x.path,
        "public tokens have 40 characters, the recording's names do not": not_found_here and "/public/" in x.path,
        "what a query key cannot do is said here": query_key
        and problem
        and ours.status in (403, 404)
        and x.status in (403, 404, 500),
        "two Authorization headers: 400": b"more than one Authorization" in ours.body,
        "a body that is not JSON is 400: Redash would execute (CONTRACT 6)": ours.status == 400
        and b"The body is not JSON" in ours.body,
        "a body that is no HTTP or not acceptable here: 400 with other words": ours.status == x.status == 400
        and problem,
        "304: the gateway has ETags": ours.status == 304,
        "the one redirect keeps no organisation in it": x.status == 301 and ours.status == 301,
        "rows of other SQL are not passed on (CONTRACT 7)": x.name in _COLLISIONS and ours.status == 502,
        "an HTML page on an API path is 502, or has its status in the gateway's words": html
        and problem
        and ours.status in (502, x.status),
        "GET with p_ or max_age runs the query (DESIGN 7)": bool(GET_FORM & x.arguments.keys()),
        "tokens are read more kindly than keys in Redash; the refusal played is then of the gateway's key": ours.status
        == 502
        and b"does not accept the key" in ours.body,
    }
    return next((why for why, holds in rules.items() if holds), None)
