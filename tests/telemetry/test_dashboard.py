"""The dashboard: Grafana can import it, and it asks for what there is. `test_prometheus.py` runs it with data."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from support.dashboard import ALL, DASHBOARD, PATH, replaced, targets, variables
from test_metrics import PROMISED

RULES = sorted(PATH.parents[1].glob("prometheus/redash-gateway.*.yml"))

UNKNOWN_TO_THE_SCHEMA = {"definition"}
"""What Grafana itself writes, but its schema does not name: a variable's query once more, for the list of them."""


def lost(before: Any, after: Any, place: str = "") -> list[str]:
    """What is not in the second that is in the first."""
    if isinstance(before, dict):
        found = [f"{place}/{name}" for name in before if name not in after and before[name] is not None]
        both = [(before[name], after[name], f"{place}/{name}") for name in before if name in after]
    elif isinstance(before, list):
        found = [place] * (len(before) != len(after))
        both = [(one, other, place) for one, other in zip(before, after, strict=False)]
    else:
        found, both = [place] * (before != after), []
    return found + [missing for arguments in both for missing in lost(*arguments)]


def test_grafanas_own_schema_knows_every_setting() -> None:
    """Its models read the file and write it again; what they do not know, a misspelt option for instance, is lost."""
    models = pytest.importorskip("grafana_foundation_sdk.models.dashboard", reason="the models are not installed")
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins

    register_default_plugins()

    def lost_by_it(board: dict[str, Any]) -> list[str]:
        return lost(board, json.loads(JSONEncoder(sort_keys=True).encode(models.Dashboard.from_json(board))))

    assert [place for place in lost_by_it(DASHBOARD) if place.rpartition("/")[2] not in UNKNOWN_TO_THE_SCHEMA] == []
    misspelt = json.loads(json.dumps(DASHBOARD).replace("graphMode", "grafMode", 1))
    assert any(place.endswith("/grafMode") for place in lost_by_it(misspelt))


def test_the_dashboard_can_be_imported() -> None:
    """What Grafana wants of a file: no id, a data source by variable, every panel with its own id and place."""
    assert DASHBOARD["id"] is None
    assert DASHBOARD["uid"] == "redash-gateway"
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    assert len({(place["x"], place["y"]) for place in places}) == len(places)
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource", "job", "instance", "client"}
    for panel in panels:
        for part in (panel, *panel.get("targets", ())):
            assert part.get("datasource", {"uid": "${datasource}"})["uid"] == "${datasource}"


def test_every_panel_shows_the_gateways_that_were_chosen() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            for series in re.findall(r"(?:redash_gateway|process)_\w+\{([^}]*)\}?", target["expr"].replace("{}", "")):
                assert 'job=~"$job", instance=~"$instance"' in series, panel["title"]


def test_every_metric_in_a_query_is_one_of_ours() -> None:
    asked = " ".join([target.expression for target in targets()] + [path.read_text() for path in RULES])
    names = set(re.findall(r"redash_gateway_([a-z_]+)", asked))
    known = set(PROMISED) | {name.replace("_count", "_bucket") for name in PROMISED if name.endswith("_count")}
    assert names <= known


def test_every_metric_is_on_the_dashboard() -> None:
    asked = " ".join(target.expression for target in targets())
    shown = {name for name in PROMISED if f"redash_gateway_{name.removesuffix('_count')}" in asked}
    assert set(PROMISED) - shown == set()


def test_every_panel_says_what_it_shows_and_no_two_of_a_row_lie_on_each_other() -> None:
    panels = DASHBOARD["panels"]
    assert [panel["title"] for panel in panels if panel["type"] != "row" and not panel["description"]] == []
    taken: dict[tuple[int, int], int] = {}
    for panel in panels:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["id"]) == panel["id"], panel["title"]


def test_the_first_row_tells_the_story() -> None:
    """What an operator shows to whoever asks what the gateway is good for, without scrolling."""
    first = [panel["title"] for panel in DASHBOARD["panels"] if panel["gridPos"]["y"] == 1]
    assert first == [
        "Hit ratio",
        "Executions saved",
        "Warehouse time saved",
        "Errors",
        "Response time, p95",
        "Executions in progress",
    ]


def test_variables_choose_all_or_several_and_are_replaced_as_grafana_does() -> None:
    for variable in variables():
        assert (variable["multi"], variable["includeAll"], variable["allValue"]) == (True, True, ALL)
        assert variable["query"]["query"] == variable["definition"]
    assert replaced('a{client=~"$client", job=~"$job"}', {"client": ["a.b", "c"]}) == (
        'a{client=~"(a\\\\.b|c)", job=~".*"}'
    )
