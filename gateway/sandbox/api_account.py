"""Accounts and the server itself: session, configuration, login, users, groups, settings, status (CONTRACT 14)."""

from __future__ import annotations

import secrets
from typing import Any
from urllib.parse import parse_qsl

from .access import owns
from .api_common import entry_of, paged
from .objects import User
from .request import Request
from .response import HTML, NOT_FOUND, Response, abort, error_page, flask_json_response, json_response, redirect
from .routing import routes
from .serialise import picture, user_body
from .timestamps import SECOND, cookie_date

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


def _client_config(request: Request) -> dict[str, Any]:
    settings = {
        "allowScriptsInUserInput": False,
        "showPermissionsControl": False,
        "hidePlotlyModeBar": False,
        "disablePublicUrls": request.database.disable_public_urls,
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
        "basePath": f"{request.host_url}/{request.slug}/" if request.state.multi_org else f"{request.host_url}/",
        "dateFormat": request.database.date_format,
        "dateFormatList": ["MM/DD/YY", "DD/MM/YY", "YYYY-MM-DD"],
        "timeFormatList": ["HH:mm:ss", "HH:mm", "HH:mm:ss.SSS"],
        "dateTimeFormat": f"{request.database.date_format} {request.database.time_format}",
        "integerFormat": "0,0",
        "floatFormat": "0,0.00",
        "thousandsSeparator": ",",
        "decimalSeparator": ".",
        "nullValue": "null",
    }
    return {name: value for name, value in settings.items() if name not in request.version.missing_settings}


@routes.add("GET", "/api/session", rest=False)
async def session(request: Request) -> Response:
    """500 for dashboard tokens; errors here are HTML (CONTRACT 3)."""
    user = request.caller.user
    if user is None:
        return error_page(500)
    who = {
        "profile_image_url": picture(user),
        "id": user.id,
        "name": user.name,
        "email": user.email,
        "groups": user.groups,
        "permissions": request.database.permissions(user),
    }
    about: dict[str, Any] = {"newVersionAvailable": False, "version": request.version.number}
    if request.caller.may("admin"):
        about["showBeaconConsentMessage"] = True
    about |= _client_config(request)
    return json_response({"user": who, "messages": [], "org_slug": request.slug, "client_config": about})


@routes.add("GET", "/api/config", login=False, rest=False)
async def config(request: Request) -> Response:
    """Needs no login."""
    return json_response({"org_slug": "default", "client_config": _client_config(request)})


@routes.add("GET", "/ping", login=False, rest=False)
async def ping(request: Request) -> Response:
    """For load balancers."""
    return Response(b"PONG.", content_type=HTML)


@routes.add("GET", "/status.json", rest=False)
async def status(request: Request) -> Response:
    """Admins only; numbers that look like Redash's."""
    if not request.caller.may("super_admin"):
        return error_page(403)
    database = request.database
    names = ["default", "periodic", "queries"] + ["schemas"] * request.state.schema_queue_exists
    queues = {name: {"size": 0} for name in names}
    size = sum(len(result.data) for result in database.results.values() if result.is_loaded)
    manager = {"last_refresh_at": str(database.now() / SECOND), "outdated_queries_count": "0", "query_ids": "[]"}
    return flask_json_response(
        {
            "dashboards_count": len(database.dashboards),
            "database_metrics": {"metrics": [["Query Results Size", size], ["Redash DB Size", 13_319_527]]},
            "manager": {**manager, "queues": queues, "started_at": str(database.now() / SECOND)},
            "queries_count": len(database.queries),
            "query_results_count": len(database.results),
            "redis_used_memory": 4_911_192,
            "redis_used_memory_human": "4.68M",
            "unused_query_results_count": 0,
            "version": request.version.number,
            "widgets_count": len(database.widgets),
            "workers": [],
        }
    )


@routes.add("GET", "/login", login=False, rest=False)
async def login_page(request: Request) -> Response:
    """The login form."""
    return Response(_LOGIN.encode(), content_type=HTML)


@routes.add("POST", "/login", login=False, rest=False)
async def login(request: Request) -> Response:
    """A session for the right password, otherwise the form again."""
    form = dict(parse_qsl(request.body.decode(errors="replace")))
    for user in request.database.users.values():
        if user.email == form.get("email") and user.password and user.password == form.get("password"):
            response = redirect("/")
            response.session = secrets.token_urlsafe(60)
            request.state.sessions[response.session] = user.id
            return response
    return await login_page(request)


@routes.add("GET", "/logout", login=False, rest=False)
async def logout(request: Request) -> Response:
    """Ends the session."""
    request.state.sessions.pop(request.session or "", None)
    return redirect("/login")


@routes.add("GET", "/static/<name>", login=False, rest=False)
async def static(request: Request) -> Response:
    """There is no front-end here."""
    return error_page(404)


@routes.add("GET", "/api/admin/queries/outdated", login=False, rest=False)
async def outdated(request: Request) -> Response:
    """For super admins; 403 as a page, even without a key."""
    if request.caller_or_none is None or not request.caller.may("super_admin"):
        return error_page(403)
    return json_response({"queries": [], "updated_at": str(request.database.now() / SECOND)})


@routes.add("GET", "/api/admin/queries/rq_status", login=False, rest=False)
async def rq_status(request: Request) -> Response:
    """For super admins; 403 as a page, even without a key."""
    if request.caller_or_none is None or not request.caller.may("super_admin"):
        return error_page(403)
    return json_response({"queues": {}, "workers": []})


@routes.add("GET", "/api/organization/status", rest=False)
async def organization_status(request: Request) -> Response:
    """The number of objects of each kind."""
    database = request.database
    counted = {
        "users": sum(user.disabled_at is None for user in database.users.values()),
        "alerts": len(database.alerts),
        "data_sources": len(database.sources),
        "queries": sum(not query.is_archived for query in database.queries.values()),
        "dashboards": sum(not board.is_archived for board in database.dashboards.values()),
    }
    return json_response({"object_counters": counted})


@routes.add("GET", "/api/settings/organization")
async def settings(request: Request) -> Response:
    """For admins."""
    request.need("admin")
    saml = ("type", "entity_id", "metadata_url", "nameid_format", "sso_url", "x509_cert", "sp_settings")
    jwt = ("auth_issuer", "auth_public_certs_url", "auth_audience")
    values: dict[str, Any] = {"auth_password_login_enabled": True, "auth_saml_enabled": False}
    values |= {f"auth_saml_{name}": "" for name in saml}
    values |= {"date_format": request.database.date_format, "time_format": request.database.time_format}
    values |= {"integer_format": "0,0", "float_format": "0,0.00"}
    values |= {"thousands_separator": ",", "decimal_separator": ".", "null_value": "null"}
    values |= {"multi_byte_search_enabled": False, "auth_jwt_login_enabled": False}
    values |= {f"auth_jwt_{name}": "" for name in jwt}
    values |= {"auth_jwt_auth_algorithms": ["HS256", "RS256", "ES256"]}
    values |= {"auth_jwt_auth_cookie_name": "", "auth_jwt_auth_header_name": ""}
    values |= {"feature_show_permissions_control": False, "send_email_on_failed_scheduled_queries": False}
    values |= {"hide_plotly_mode_bar": False, "disable_public_urls": request.database.disable_public_urls}
    return json_response({"settings": {**values, "auth_google_apps_domains": []}})


# -- users and groups


def _with_key(request: Request, user: User) -> dict[str, Any]:
    """The user with the key, for the user and for admins; without it for others (CONTRACT 15)."""
    body = user_body(user)
    return {**body, "api_key": user.api_key} if owns(user.id, request.caller) else body


def _user(request: Request) -> User:
    user = entry_of(request, request.database.users, "user_id")
    if user.org != request.org:
        abort(404, NOT_FOUND)
    return user


@routes.add("GET", "/api/users")
async def users(request: Request) -> Response:
    """All users with their e-mail addresses, for every user."""
    request.need("list_users")
    groups = request.database.groups
    disabled = request.arg("disabled").lower() == "true"
    found = [user for user in request.database.users.values() if user.org == request.org and not user.pending]
    found = [user for user in reversed(found) if (user.disabled_at is not None) == disabled]

    def item(user: User) -> dict[str, Any]:
        return {**user_body(user), "groups": [{"id": id, "name": groups[id].name} for id in user.groups]}

    return paged(request, found, item)


@routes.add("POST", "/api/users")
async def invite(request: Request) -> Response:
    """The body has the invitation link, a secret, because no mail server is configured."""
    request.need("admin")
    fields = request.json_object()
    user = request.database.add_user(fields["name"], fields["email"], [2], org=request.org_id, pending=True)
    return json_response({**user_body(user), "invite_link": f"/invite/{secrets.token_urlsafe(30)}"})


@routes.add("GET", "/api/users/<user_id>")
async def read_user(request: Request) -> Response:
    """Every user may read every user; `_with_key` decides about the key."""
    request.require(request.caller.may("list_users"))
    return json_response(_with_key(request, _user(request)))


@routes.add("POST", "/api/users/<user_id>")
async def edit_user(request: Request) -> Response:
    """Users may edit themselves, admins may edit every user."""
    user = _user(request)
    request.require(owns(user.id, request.caller))
    fields = request.json_object()
    user.name, user.email = fields.get("name", user.name), fields.get("email", user.email)
    request.database.touch(user)
    response = json_response(_with_key(request, user))
    if user is request.caller.user:  # a user who edits his own account is logged in again
        expires = cookie_date(request.database.now() + 31 * _DAY * SECOND)
        token = secrets.token_urlsafe(40)
        response.headers.append(("Set-Cookie", f"remember_token={token}; Expires={expires}; HttpOnly; Path=/"))
    return response


@routes.add("POST", "/api/users/<user_id>/regenerate_api_key")
async def regenerate(request: Request) -> Response:
    """The old key is invalid at once."""
    user = _user(request)
    request.require(owns(user.id, request.caller))
    user.api_key = request.database.new_key()
    return json_response(_with_key(request, user))


@routes.add("POST", "/api/users/<user_id>/disable")
async def disable(request: Request) -> Response:
    """The user's key is invalid from now on, the keys of the user's queries stay valid (CONTRACT 1)."""
    request.need("admin")
    user = _user(request)
    user.disabled_at = request.database.now()
    return json_response(_with_key(request, user))


@routes.add("DELETE", "/api/users/<user_id>/disable")
async def enable(request: Request) -> Response:
    """Makes a disabled user active again."""
    request.need("admin")
    user = _user(request)
    user.disabled_at = None
    return json_response(_with_key(request, user))
