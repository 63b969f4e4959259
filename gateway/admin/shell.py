"""What every page of the console has around it: head, navigation, notices, and forms with the session's CSRF token."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

import msgspec

ICON: Final = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Crect width='16' height='16' rx='4' fill='%230f7b6c'/%3E"
    "%3Cpath d='M4 11V8m4 3V5m4 6V7' stroke='white' stroke-width='2' stroke-linecap='round'/%3E%3C/svg%3E"
)
"""Three bars on green, small enough to be inlined."""

PAGES: Final = (
    ("", "Overview"),
    ("queries", "Queries"),
    ("clients", "Clients"),
    ("requests", "Requests"),
    ("explain", "Explain"),
    ("configuration", "Configuration"),
)


_CURRENT: Final = ' aria-current="page"'


class Frame(msgspec.Struct, frozen=True):
    """What a page needs to know beside its content."""

    style: str
    script: str
    root: str = ""
    """The way to the console's first page, relative to this one: it may be below any prefix of a proxy."""
    csrf: str = ""
    """Of the session; "" if nobody has signed in."""
    notice: str = ""
    can_sign_in: bool = False


def document(
    frame: Frame,
    page: str,
    title: str,
    live: str,
    *,
    before: str = "",
    after: str = "",
    footer: str = "",
    stream: str = "",
) -> str:
    """Return a whole page; `page` is its path. `live` is renewed while it is shown: by `stream`, else by reloading."""
    name = f"{title} · Redash Gateway" if title else "Redash Gateway"
    notice = f'<p class="notice" role="status">{escape(frame.notice)}</p>' if frame.notice else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(name)}</title>
<link rel="icon" href="{ICON}">
<link rel="stylesheet" href="{frame.root}{escape(frame.style)}">
<script src="{frame.root}{escape(frame.script)}" defer></script>
</head>
<body>
<a class="skip" href="#main">Skip to the content</a>
<header>
<h1>{escape(title or "Redash Gateway")}</h1>
{_navigation(frame, page)}
<p class="stream" id="stream" role="status"></p>
<p class="unseen" id="spoken" aria-live="polite"></p>
</header>
<main id="main">
{notice}
{before}
<div id="live" class="live"{f' data-stream="{stream}"' if stream else ""}>{live}</div>
{after}
</main>
<footer>{footer}</footer>
</body>
</html>
"""


def _navigation(frame: Frame, page: str) -> str:
    links = "".join(
        f'<li><a href="{frame.root}{path or "./"}"{_CURRENT if path == page else ""}>{label}</a></li>'
        for path, label in PAGES
    )
    if frame.csrf:
        session = f'<a href="{frame.root}./#actions">Actions</a> '
        session += form(frame, "sign-out", '<button class="plain">Sign out</button>')
    else:
        session = f'<a href="{frame.root}sign-in">Sign in</a>' if frame.can_sign_in else ""
    return f'<nav aria-label="Console"><ul>{links}<li class="session">{session}</li></ul></nav>'


def form(frame: Frame, action: str, fields: str) -> str:
    """Return a form that only this session can send."""
    csrf = f'<input type="hidden" name="csrf" value="{escape(frame.csrf)}">'
    return f'<form method="post" action="{frame.root}{action}">{csrf}{fields}</form>'


def operator_forms(frame: Frame, credentials: Sequence[str]) -> str:
    """Return the forms to purge and to reload; nothing where nobody has signed in."""
    if not frame.csrf:
        return ""
    options = "".join(f"<option>{escape(name)}</option>" for name in credentials)
    number = '<input name="which" inputmode="numeric" pattern="[0-9]{1,16}" size="8" required>'
    tag = '<input name="which" maxlength="200" size="12" required>'
    forms = (
        purge_form(frame, "query", f"<label>Results of query {number}</label>"),
        purge_form(frame, "data_source", f"<label>Results of data source {number}</label>"),
        purge_form(frame, "tag", f"<label>Results of queries with the tag {tag}</label>"),
        purge_form(frame, "scope", f'<label>Results fetched with <select name="which">{options}</select></label>'),
        form(frame, "actions/reload", "<button>Load the configuration again</button>"),
        f"<details><summary>Purge everything …</summary>{purge_form(frame, 'all', '', 'Purge all results')}</details>",
    )
    return (
        '<section class="sheet card" aria-labelledby="actions"><h2 id="actions">Actions</h2>'
        f'<div class="forms">{"".join(forms)}</div></section>'
    )


def purge_form(frame: Frame, what: str, fields: str, button: str = "Purge", back: str = "") -> str:
    """Return a form that purges, and then leads to the page `back`."""
    hidden = f'<input type="hidden" name="what" value="{what}"><input type="hidden" name="back" value="{back}">'
    return form(frame, "actions/purge", f"{hidden}{fields} <button>{button}</button>")


def sign_in(frame: Frame, trouble: str = "") -> str:
    """Return the page that takes the admin token."""
    if not frame.can_sign_in:
        main = (
            "<p>No admin token is configured. <code>redash-gateway token</code> makes one; its hash goes into "
            "<code>admin.token_sha256</code>.</p>"
        )
    else:
        alert = f'<p class="alarm" role="alert">{escape(trouble)}</p>' if trouble else ""
        main = f"""{alert}<form method="post" action="{frame.root}sign-in">
<input name="username" value="admin" autocomplete="username" hidden>
<label for="token">Admin token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<button>Sign in</button>
</form>
<p class="about">The token whose SHA-256 is admin.token_sha256. The session ends after an hour without use.</p>"""
    return document(frame, "sign-in", "Sign in", "", before=f'<section class="sheet card">{main}</section>')
