"""People and the server itself: session, configuration, login, users, groups, settings, status (CONTRACT 14)."""

from __future__ import annotations

import secrets
from typing import Any
from urllib.parse import parse_qsl

from .access import owns
from .finding import entry_of, paged
from .messages import HTML, NOT_FOUND, Call, Reply, abort, answer, compact, page, redirect
from .moments import SECOND, cookie_date
from .objects import User
from .routing import routes
from .serialise import picture, user_body

VERSION = "26.08.0-dev"
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_BOARD_INTERVALS = [_MINUTE, 300, 600, 1800, _HOUR, 12 * _HOUR, _DAY]
_QUERY_INTERVALS = [
    *(_MINUTE, 300, 600, 900, 1800),
    *(hours * _HOUR for hours in range(1, 12)),
    *(12 * _HOUR, _DAY, 7 * _DAY, 14 * _DAY, 30 * _DAY),
]
_LOGIN = """<!DOCTYPE html>
<html class="no-js">
<head>
  <title>Login to Redash</title>
</head>
<body class="signed-out"><form role="form" method="post" name="login">
  <input type="text" name="email" value=""><input type="password" name="password">
</form></body>
</html>
"""


def _client_config(call: Call) -> dict[str, Any]:
    return {
        "allowScriptsInUserInput": False,
        "showPermissionsControl": False,
        "hidePlotlyModeBar": False,
        "disablePublicUrls": call.service.world.disable_public_urls,
        "multiByteSearchEnabled": False,
        "allowCustomJSVisualizations": True,
        "autoPublishNamedQueries": True,
        "extendedAlertOptions": False,
        "mailSettingsMissing": True,
        "dashboardRefreshIntervals": _BOARD_INTERVALS,
        "queryRefreshIntervals": _QUERY_INTERVALS,
        "googleLoginEnabled": False,
        "ldapLoginEnabled": False,
        "pageSize": 20,
        "pageSizeOptions": [5, 10, 20, 50, 100],
        "tableCellMaxJSONSize": 50000,
        "basePath": f"{call.host_url}/{call.slug}/" if call.service.multi_org else f"{call.host_url}/",
        "dateFormat": "DD/MM/YY",
        "dateFormatList": ["MM/DD/YY", "DD/MM/YY", "YYYY-MM-DD"],
        "timeFormatList": ["HH:mm:ss", "HH:mm", "HH:mm:ss.SSS"],
        "dateTimeFormat": "DD/MM/YY HH:mm",
        "integerFormat": "0,0",
        "floatFormat": "0,0.00",
        "thousandsSeparator": ",",
        "decimalSeparator": ".",
        "nullValue": "null",
    }


@routes.add("GET", "/api/session", rest=False)
async def session(call: Call) -> Reply:
    """Breaks on dashboard tokens; errors here are HTML (CONTRACT 3)."""
    user = call.caller.user
    if user is None:
        return page(500)
    who = {
        "profile_image_url": picture(user),
        "id": user.id,
        "name": user.name,
        "email": user.email,
        "groups": user.groups,
        "permissions": call.service.world.permissions(user),
    }
    about: dict[str, Any] = {"newVersionAvailable": False, "version": VERSION}
    if call.caller.may("admin"):
        about["showBeaconConsentMessage"] = True
    about |= _client_config(call)
    return answer({"user": who, "messages": [], "org_slug": call.slug, "client_config": about})


@routes.add("GET", "/api/config", login=False, rest=False)
async def config(call: Call) -> Reply:
    """Without login."""
    return answer({"org_slug": "default", "client_config": _client_config(call)})


@routes.add("GET", "/ping", login=False, rest=False)
async def ping(call: Call) -> Reply:
    """For load balancers."""
    return Reply(b"PONG.", type=HTML)


@routes.add("GET", "/status.json", rest=False)
async def status(call: Call) -> Reply:
    """Admins only; numbers that look like Redash's."""
    if not call.caller.may("super_admin"):
        return page(403)
    world = call.service.world
    names = ["default", "periodic", "queries"] + ["schemas"] * call.service.schemas_asked
    queues = {name: {"size": 0} for name in names}
    size = sum(len(result.data) for result in world.results.values() if result.is_loaded)
    manager = {"last_refresh_at": str(world.now() / SECOND), "outdated_queries_count": "0", "query_ids": "[]"}
    return compact(
        {
            "dashboards_count": len(world.dashboards),
            "database_metrics": {"metrics": [["Query Results Size", size], ["Redash DB Size", 13_319_527]]},
            "manager": {**manager, "queues": queues, "started_at": str(world.now() / SECOND)},
            "queries_count": len(world.queries),
            "query_results_count": len(world.results),
            "redis_used_memory": 4_911_192,
            "redis_used_memory_human": "4.68M",
            "unused_query_results_count": 0,
            "version": VERSION,
            "widgets_count": len(world.widgets),
            "workers": [],
        }
    )


@routes.add("GET", "/login", login=False, rest=False)
async def login_page(call: Call) -> Reply:
    """The form."""
    return Reply(_LOGIN.encode(), type=HTML)


@routes.add("POST", "/login", login=False, rest=False)
async def login(call: Call) -> Reply:
    """A session for the right password, else the form again."""
    form = dict(parse_qsl(call.body.decode(errors="replace")))
    for user in call.service.world.users.values():
        if user.email == form.get("email") and user.password and user.password == form.get("password"):
            reply = redirect("/")
            reply.session = secrets.token_urlsafe(60)
            call.service.sessions[reply.session] = user.id
            return reply
    return await login_page(call)


@routes.add("GET", "/logout", login=False, rest=False)
async def logout(call: Call) -> Reply:
    """Ends the session."""
    call.service.sessions.pop(call.session or "", None)
    return redirect("/login")


@routes.add("GET", "/static/<name>", login=False, rest=False)
async def static(call: Call) -> Reply:
    """There is no front-end here."""
    return page(404)


@routes.add("GET", "/api/admin/queries/outdated", login=False, rest=False)
async def outdated(call: Call) -> Reply:
    """For super admins; 403 as a page, even without a key."""
    if call.caller_or_none is None or not call.caller.may("super_admin"):
        return page(403)
    return answer({"queries": [], "updated_at": str(call.service.world.now() / SECOND)})


@routes.add("GET", "/api/admin/queries/rq_status", login=False, rest=False)
async def rq_status(call: Call) -> Reply:
    """For super admins; 403 as a page, even without a key."""
    if call.caller_or_none is None or not call.caller.may("super_admin"):
        return page(403)
    return answer({"queues": {}, "workers": []})


@routes.add("GET", "/api/organization/status", rest=False)
async def organization_status(call: Call) -> Reply:
    """How many of each there are."""
    world = call.service.world
    counted = {
        "users": sum(user.disabled_at is None for user in world.users.values()),
        "alerts": len(world.alerts),
        "data_sources": len(world.sources),
        "queries": sum(not query.is_archived for query in world.queries.values()),
        "dashboards": sum(not board.is_archived for board in world.dashboards.values()),
    }
    return answer({"object_counters": counted})


@routes.add("GET", "/api/settings/organization")
async def settings(call: Call) -> Reply:
    """For admins."""
    call.need("admin")
    saml = ("type", "entity_id", "metadata_url", "nameid_format", "sso_url", "x509_cert", "sp_settings")
    jwt = ("auth_issuer", "auth_public_certs_url", "auth_audience")
    values: dict[str, Any] = {"auth_password_login_enabled": True, "auth_saml_enabled": False}
    values |= {f"auth_saml_{name}": "" for name in saml}
    values |= {"date_format": "DD/MM/YY", "time_format": "HH:mm", "integer_format": "0,0", "float_format": "0,0.00"}
    values |= {"thousands_separator": ",", "decimal_separator": ".", "null_value": "null"}
    values |= {"multi_byte_search_enabled": False, "auth_jwt_login_enabled": False}
    values |= {f"auth_jwt_{name}": "" for name in jwt}
    values |= {"auth_jwt_auth_algorithms": ["HS256", "RS256", "ES256"]}
    values |= {"auth_jwt_auth_cookie_name": "", "auth_jwt_auth_header_name": ""}
    values |= {"feature_show_permissions_control": False, "send_email_on_failed_scheduled_queries": False}
    values |= {"hide_plotly_mode_bar": False, "disable_public_urls": call.service.world.disable_public_urls}
    return answer({"settings": {**values, "auth_google_apps_domains": []}})


# -- users and groups


def _with_key(call: Call, user: User) -> dict[str, Any]:
    """The key in one's own record, and in everybody's for admins (CONTRACT 15)."""
    body = user_body(user)
    return {**body, "api_key": user.api_key} if owns(user.id, call.caller) else body


def _user(call: Call) -> User:
    user = entry_of(call, call.service.world.users, "user_id")
    if user.org != call.org:
        abort(404, NOT_FOUND)
    return user


@routes.add("GET", "/api/users")
async def users(call: Call) -> Reply:
    """All of them with their e-mail addresses, for everybody."""
    call.need("list_users")
    groups = call.service.world.groups
    disabled = call.arg("disabled").lower() == "true"
    found = [user for user in call.service.world.users.values() if user.org == call.org and not user.pending]
    found = [user for user in reversed(found) if (user.disabled_at is not None) == disabled]

    def item(user: User) -> dict[str, Any]:
        return {**user_body(user), "groups": [{"id": id, "name": groups[id].name} for id in user.groups]}

    return paged(call, found, item)


@routes.add("POST", "/api/users")
async def invite(call: Call) -> Reply:
    """The invitation link is a secret in the body, as no mail server is set."""
    call.need("admin")
    fields = call.json_object()
    user = call.service.world.user(fields["name"], fields["email"], [2], org=call.org_id, pending=True)
    return answer({**user_body(user), "invite_link": f"/invite/{secrets.token_urlsafe(30)}"})


@routes.add("GET", "/api/users/<user_id>")
async def read_user(call: Call) -> Reply:
    """Anybody reads any; the key only as `_with_key` says."""
    call.require(call.caller.may("list_users"))
    return answer(_with_key(call, _user(call)))


@routes.add("POST", "/api/users/<user_id>")
async def edit_user(call: Call) -> Reply:
    """Oneself, or anybody for admins."""
    user = _user(call)
    call.require(owns(user.id, call.caller))
    fields = call.json_object()
    user.name, user.email = fields.get("name", user.name), fields.get("email", user.email)
    call.service.world.touch(user)
    reply = answer(_with_key(call, user))
    if user is call.caller.user:  # whoever edits himself is logged in anew
        expires = cookie_date(call.service.world.now() + 31 * _DAY * SECOND)
        token = secrets.token_urlsafe(40)
        reply.headers.append(("Set-Cookie", f"remember_token={token}; Expires={expires}; HttpOnly; Path=/"))
    return reply


@routes.add("POST", "/api/users/<user_id>/regenerate_api_key")
async def regenerate(call: Call) -> Reply:
    """The old key is dead at once."""
    user = _user(call)
    call.require(owns(user.id, call.caller))
    user.api_key = call.service.world.key()
    return answer(_with_key(call, user))


@routes.add("POST", "/api/users/<user_id>/disable")
async def disable(call: Call) -> Reply:
    """Kills the user's key, not the keys of his queries (CONTRACT 1)."""
    call.need("admin")
    user = _user(call)
    user.disabled_at = call.service.world.now()
    return answer(_with_key(call, user))


@routes.add("DELETE", "/api/users/<user_id>/disable")
async def enable(call: Call) -> Reply:
    """Undoes a disabling."""
    call.need("admin")
    user = _user(call)
    user.disabled_at = None
    return answer(_with_key(call, user))
