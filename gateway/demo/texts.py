"""What the demo prints, and its configuration. The commands to paste stay on one line each."""

from __future__ import annotations

from typing import Final

CONFIGURATION: Final = """
[server]
listen = "127.0.0.1:{port}"

[admin]
listen = "127.0.0.1:{admin_port}"
token_sha256 = "{admin_token_sha256}"

[upstream]
url = "{redash}"

[credentials.analyst]
kind = "user"
key_env = "DEMO_KEY"

[credentials.one-query]
kind = "query"
query = {query_key_id}
key_env = "DEMO_QUERY_KEY"

[clients.demo]
token_sha256 = ["{token_sha256}"]
credentials = ["analyst"]
text_parameters = true

[clients.dashboards]
token_sha256 = ["{wall_token_sha256}"]
credentials = ["analyst"]
floor = "30s"

[clients.one-query]
token_sha256 = ["{query_token_sha256}"]
credentials = ["query"]

[cache]
store = "sqlite:demo.db"

[log]
access = false
"""

TITLE: Final = """
Redash Gateway demo: a sandbox Redash with {orders:,} orders at {redash}, and the gateway in front of it.

  gateway  {api}      token  {token}
  console  {admin}      open it in a browser; also /metrics  /readyz  /api/status
           sign in with  {admin_token}  to purge, to reload and to end runs

Ten dashboards with {panels} panels each are opened one after the other. Each panel asks for fresh data (max_age 0), and
its query takes 0.3 s. The gateway has floor = "30s" for them: a result of the last 30 s counts as fresh.
"""

COMMANDS: Final = """
Paste in another terminal:

  # 1. A miss: nothing is cached yet. Redash already has a result, so no query runs (Prefer: wait=20 would wait for one)
  curl -si -H 'Authorization: Key {token}' -H 'Prefer: wait=20' -d '{{"max_age": 60}}' {api}/api/queries/{query}/results | head -c 900

  # 2. The same request again: a hit, see Age and Cache-Status
  curl -si -H 'Authorization: Key {token}' -d '{{"max_age": 60}}' {api}/api/queries/{query}/results | head -c 900

  # 3. Fifty callers request a fresh run of the {slow} s query at the same time: Redash runs it once
  seq 50 | xargs -P50 -I{{}} curl -s -o /dev/null -H 'Authorization: Key {token}' -H 'Prefer: wait=30' -d '{{"max_age": 0}}' {api}/api/queries/{slow_query}/results
  curl -s {redash}/sandbox/counters

  # 4. Hits, misses, executions, and the execution time that was saved
  curl -s {admin}/metrics | grep -E '^redash_gateway_(requests|executions|saved_execution_seconds)_total'

The dashboards go on, for the console. Ctrl-C stops everything; nothing is kept.
"""
