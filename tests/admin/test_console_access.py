"""Who may read the console and who may act: the admin token, sessions of browsers, CSRF, other machines."""

from __future__ import annotations

import re

import aiohttp
import pytest
from support.calls import ADMIN_TOKEN, AS_OPERATOR
from support.http import Reply, send
from support.world import World

from gateway import config
from gateway.admin import sessions
from gateway.admin.sessions import IDLE_SECONDS, LIFE_SECONDS, MOST_SESSIONS, Sessions

READING = ("/", "/api/status", "/events", "/sign-in", "/metrics", "/livez", "/readyz")
NO_TOKEN = 'listen = "127.0.0.1:0"'
OPEN = 'listen = "0.0.0.0:0"'
OPEN_WITH_TOKEN = f'{OPEN}\ntoken_sha256 = "{config.token_hash(ADMIN_TOKEN)}"'


class Browser:
    """Keeps cookies and sends forms, as a browser without JavaScript does."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.cookie = ""
        self.page = ""

    async def get(self, path: str = "/") -> Reply:
        headers = {"Accept": "text/html"} | ({"Cookie": self.cookie} if self.cookie else {})
        async with self.world.session.get(self.world.admin + path, headers=headers, allow_redirects=False) as response:
            reply = Reply(response.status, response.headers.copy(), await response.read())
        self.page = reply.body.decode()
        return reply

    async def send(self, path: str, origin: str | None = "", **fields: str) -> Reply:
        """Send a form; `origin` "" is the console's own, None sends none."""
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Cookie": self.cookie}
        if origin is not None:
            headers["Origin"] = origin or self.world.admin
        body = aiohttp.FormData(fields)()._value  # type: ignore[union-attr]
        return await send(self.world.session, "POST", self.world.admin + path, body, headers=headers)

    async def sign_in(self, token: str = ADMIN_TOKEN, **more: str) -> Reply:
        reply = await self.send("/sign-in", token=token, **more)
        if "Set-Cookie" in reply.headers:
            self.cookie = reply.headers["Set-Cookie"].partition(";")[0]
        return reply

    async def csrf(self) -> str:
        await self.get()
        found = re.search(r'name="csrf" value="([^"]+)"', self.page)
        return found[1] if found else ""

    async def act(self, path: str, **fields: str) -> str:
        """Send a form of the page and return what the next page says about it."""
        reply = await self.send(path, csrf=await self.csrf(), **fields)
        assert reply.status == 303, reply.body
        await self.get()
        found = re.search(r'class="notice"[^>]*>([^<]*)<', self.page)
        return found[1] if found else ""


@pytest.fixture
def browser(world: World) -> Browser:
    return Browser(world)


# -- reading


async def test_on_loopback_everybody_may_read(world: World) -> None:
    for path in READING:
        async with world.session.get(world.admin + path) as response:
            assert response.status == 200, path


async def test_other_machines_need_the_token_for_all_but_health_and_metrics(bare: World) -> None:
    await bare.start(admin=OPEN_WITH_TOKEN)
    for path in (*READING, "/nothing"):
        wanted = 200 if path in ("/sign-in", "/metrics", "/livez", "/readyz") else 401
        assert (await send(bare.session, "GET", bare.admin + path, headers={})).status == wanted, path
    assert (await send(bare.session, "GET", f"{bare.admin}/api/status", headers=AS_OPERATOR)).status == 200
    browser = Browser(bare)
    for path, root in (("/", ""), ("/queries/1", "../")):
        reply = await browser.get(path)
        assert (reply.status, reply.headers["Location"]) == (303, f"{root}sign-in")
    await browser.get("/sign-in")
    style = re.findall(r'href="(assets/[^"]+)"', browser.page)
    assert style
    assert (await browser.get(f"/{style[0]}")).status == 200
    await browser.sign_in()
    assert (await browser.get("/")).status == 200


async def test_without_a_token_in_the_configuration_other_machines_read_nothing(bare: World) -> None:
    await bare.start(admin=OPEN)
    reply = await send(bare.session, "GET", f"{bare.admin}/api/status", headers=AS_OPERATOR)
    assert reply.status == 403
    assert "admin.token_sha256" in reply.json["detail"]
    assert (await send(bare.session, "GET", f"{bare.admin}/metrics", headers={})).status == 200


# -- acting


@pytest.mark.parametrize("path", ["/purge", "/reload", "/actions/purge", "/actions/reload", "/actions/end-run"])
async def test_acting_needs_the_token_on_loopback_too(world: World, path: str) -> None:
    """What comes over loopback may come from a reverse proxy, so from anybody."""
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer "}):
        reply = await send(world.session, "POST", world.admin + path, {"all": True}, headers=headers)
        assert reply.status == 401, path


@pytest.mark.parametrize(
    ("path", "body"),
    [("/purge", b'{"query": 1, "query": 2}'), ("/api/explain", b'{"client": "dashboard", "query": 1, "query": 2}')],
)
async def test_no_key_is_repeated_in_what_only_the_gateway_reads(world: World, path: str, body: bytes) -> None:
    """One of the two would do nothing, and nobody would notice."""
    reply = await send(world.session, "POST", world.admin + path, body, headers=AS_OPERATOR)
    assert (reply.status, "repeated" in reply.json["detail"]) == (400, True)


async def test_without_a_token_in_the_configuration_nobody_acts(bare: World) -> None:
    await bare.start(admin=NO_TOKEN)
    for path in ("/purge", "/reload"):
        reply = await send(bare.session, "POST", bare.admin + path, {"all": True}, headers=AS_OPERATOR)
        assert reply.status == 403
        assert "admin.token_sha256" in reply.json["detail"]
    browser = Browser(bare)
    assert (await browser.sign_in()).status == 403
    assert not browser.cookie
    await browser.get("/sign-in")
    assert "No admin token is configured" in browser.page


async def test_a_browser_signs_in_and_purges(browser: Browser, world: World) -> None:
    await world.post("by_country", max_age=600, wait=20)
    await browser.get()
    assert "csrf" not in browser.page, "nothing to act with before"
    reply = await browser.sign_in()
    assert (reply.status, reply.headers["Location"]) == (303, "./")
    said = await browser.act("/actions/purge", what="query", which=str(world.named["by_country"]))
    assert re.fullmatch(rf"Purged query {world.named['by_country']}: [1-9]\d* entries\.", said)
    assert "hit" not in (await world.post("by_country", max_age=600, wait=20)).cache
    assert (await browser.act("/actions/purge", what="scope", which="analyst")).startswith("Purged scope analyst: ")
    assert (await browser.act("/actions/purge", what="all")).startswith("Purged all: ")
    assert "Nothing was done" in await browser.act("/actions/purge", what="scope", which="nobody")
    assert "Nothing was done" in await browser.act("/actions/purge", what="query", which="x")
    assert "without a configuration file" in await browser.act("/actions/reload")
    await browser.get()
    assert 'class="notice"' not in browser.page, "a notice is shown once"


async def test_an_operator_ends_a_run_for_all_its_callers(browser: Browser, world: World) -> None:
    await browser.sign_in()
    body = {"max_age": 0, "parameters": {"seconds": 20}}
    jobs = [(await world.post("slow_seconds", client="writer", **body)).job["id"] for _ in range(2)]
    (run,) = world.runtime.executions.flights.running
    assert "was cancelled" in await browser.act("/actions/end-run", run=run.id)
    for job in jobs:
        assert (await world.finish(job, client="writer"))["status"] == 4
    assert world.sandbox.counters.by_route["DELETE /api/jobs/<job_id>"] == 1
    assert "has ended" in await browser.act("/actions/end-run", run=run.id)


async def test_a_run_with_the_key_of_a_query_goes_on(browser: Browser, world: World) -> None:
    """Redash does not let such a key cancel (CONTRACT 2); the page says so."""
    await browser.sign_in()
    async with world.sandbox.hold():
        await world.post("in_country", client="narrow", max_age=0, parameters={"country": "FR"})
        (run,) = world.runtime.executions.flights.running
        assert "cannot be cancelled" in await browser.act("/actions/end-run", run=run.id)
        assert world.runtime.executions.flights.running == [run]


async def test_the_cookie_is_for_this_console_alone(browser: Browser) -> None:
    fields = (await browser.sign_in()).headers["Set-Cookie"].split("; ")[1:]
    assert sorted(fields) == ["HttpOnly", "SameSite=Strict"]


async def test_a_form_needs_the_token_of_its_own_session(browser: Browser, world: World) -> None:
    other = Browser(world)
    await browser.sign_in()
    await other.sign_in()
    for csrf in ("", "x", await other.csrf(), "\ud800".encode("utf-8", "surrogatepass").decode("latin-1")):
        for path in ("/actions/purge", "/actions/reload", "/sign-out"):
            assert (await browser.send(path, csrf=csrf, what="all")).status == 401
    assert (await browser.send("/actions/purge", csrf=await browser.csrf(), what="all")).status == 303


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1"])
async def test_a_page_of_another_origin_cannot_act(browser: Browser, origin: str) -> None:
    await browser.sign_in()
    csrf = await browser.csrf()
    for path in ("/actions/purge", "/sign-in", "/sign-out"):
        reply = await browser.send(path, origin=origin, csrf=csrf, what="all", token=ADMIN_TOKEN)
        assert reply.status == 403


async def test_a_form_leads_back_to_pages_of_the_console_only(browser: Browser) -> None:
    await browser.sign_in()
    for back, wanted in {"queries/7": "../queries/7", "//evil.example": "../", "queries/7\r\nX: y": "../"}.items():
        reply = await browser.send("/actions/purge", csrf=await browser.csrf(), what="all", back=back)
        assert reply.headers["Location"] == wanted


async def test_a_wrong_token_opens_nothing_and_is_not_repeated(browser: Browser) -> None:
    reply = await browser.sign_in("rg_wrong_token_0123456789")
    assert reply.status == 403
    assert b"rg_wrong" not in reply.body
    assert "Set-Cookie" not in reply.headers


async def test_signing_out_ends_the_session(browser: Browser) -> None:
    await browser.sign_in()
    csrf, cookie = await browser.csrf(), browser.cookie
    assert csrf
    assert (await browser.send("/sign-out", csrf=csrf)).status == 303
    browser.cookie = cookie
    assert not await browser.csrf()


async def test_a_session_ends_when_it_is_not_used(browser: Browser, world: World) -> None:
    await browser.sign_in()
    world.clock.turn(IDLE_SECONDS - 1)
    assert await browser.csrf()
    world.clock.turn(IDLE_SECONDS + 1)
    assert not await browser.csrf()


async def test_another_admin_token_ends_every_session(browser: Browser, world: World) -> None:
    await browser.sign_in()
    world.reconfigure(world.text.replace(config.token_hash(ADMIN_TOKEN), config.token_hash("rg_other")))
    assert not await browser.csrf()
    world.reconfigure(world.text.replace(config.token_hash("rg_other"), config.token_hash(ADMIN_TOKEN)))
    assert not await browser.csrf(), "it does not come back either"


@pytest.mark.parametrize("body", [b"\xff=1", b"a=1&" * 50, b"x" * 5_000])
async def test_a_form_is_small_and_plain(browser: Browser, world: World, body: bytes) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    reply = await send(world.session, "POST", f"{world.admin}/sign-in", body, headers=headers)
    assert reply.status in (400, 413)


def test_sessions_live_for_a_limited_time_however_much_they_are_used() -> None:
    known = Sessions()
    value = known.begin("hash", 0.0)
    for hour in range(1, int(LIFE_SECONDS // 3600) + 1):
        assert known.find(value, "hash", hour * 3600.0 - 1)
    assert known.find(value, "hash", LIFE_SECONDS + 1) is None
    assert len(known) == 0


def test_sessions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MOST_SESSIONS", 3)
    known = Sessions()
    values = [known.begin("hash", float(n)) for n in range(3)]
    assert known.find(values[0], "hash", 10.0)
    values.append(known.begin("hash", 11.0))
    assert [known.find(value, "hash", 12.0) is not None for value in values] == [True, False, True, True]
    assert MOST_SESSIONS <= 1_000
