"""What a client sees differently in other versions of Redash, as data: one value for each version. The modules that act
read its members, and no other module compares versions. The newest version is described by the defaults.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

_HOUR = 3600
_DAY = 24 * _HOUR
_POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-eval'; font-src 'self' data:; "
    "img-src 'self' http: https: data: blob:; object-src 'none'; frame-ancestors 'none'; frame-src redash.io;"
)
_OLD_POLICY = (
    "; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; default-src 'self'; "
    "frame-src redash.io; img-src 'self' http: https: data:; object-src 'none'; font-src 'self' data:"
)


@dataclass(frozen=True)
class Version:
    """One version. A member says what it does; sections of CONTRACT describe the newest one."""

    number: str = "26.08.0-dev"
    """In `/api/session` and `/status.json`."""

    # -- the cache key, and what a query's newest result is

    hash_folds_case: bool = False
    """'de' and 'DE' share results and runs."""
    hash_has_defaults: bool = True
    """The hash of a query with parameters is that of its defaults, else of the bare template: no result has it."""
    strips_statements: bool = True
    """Comments and semicolons at the end are cut off before a run; else only if the automatic limit is wanted."""
    has_auto_limit: bool = True
    post_limits_like_query: bool = True
    """POST …/results takes `apply_auto_limit` from the query where the body does not have it."""

    # -- parameters

    text_pattern: bool = True
    """The type `text-pattern` is known; any value of an unknown type is 400."""
    broken_check_is_400: bool = True
    """A value that cannot be checked, as its dropdown query was never executed, is invalid; else it is 500."""
    no_source_is_401: bool = True
    """Executing a query without data source; else 500."""

    # -- jobs

    job_has_result: bool = True
    job_has_time: bool = True
    """`updated_at` of a started job; else always 0."""
    cancelled_job_has_time: bool = False
    """`updated_at` stays in a job that was cancelled while it ran."""
    unknown_job_is_queued: bool = False
    """Unknown, expired and lost ids are 200 with status 1; else 500."""
    queued_job_waits_to_be_cancelled: bool = False
    """A job that is cancelled while queued stays there until a worker takes it, and others still join it."""
    finished_job_can_be_cancelled: bool = True
    finished_job_seconds: int = 12 * _HOUR
    failed_job_seconds: int = 7 * _DAY

    # -- JSON

    hash_ordered: bool = False
    """Members of objects stand in the order of Python 2's dictionaries."""
    escapes_unicode: bool = False
    jsonb: bool = True
    """PostgreSQL sorts the members of options; else they stay as they were written."""
    jsonify_indents: bool = False
    """Flask's own JSON is indented; else it is compact."""

    # -- errors and redirects

    no_login_by_flask: bool = False
    """The 404 without login is Flask's own JSON on all routes; else only on those that are not REST resources."""
    not_allowed_is_page: bool = False
    """405 is a page on all routes; else only on those that are not REST resources."""
    absolute_redirects: bool = False
    two_blanks: bool = False
    """Texts of Werkzeug have two blanks between sentences."""
    suggests_routes: bool = False
    """Flask-RESTful adds routes with similar paths to the text of a 404."""

    # -- routes

    missing_routes: frozenset[str] = frozenset()
    """Templates that do not exist: front-end page for GET, 405 for other methods, or another template that fits."""

    # -- files, dashboards, sources, settings

    file_types: tuple[str, ...] = ("json", "csv", "tsv", "xlsx")
    other_types_are_csv: bool = False
    """Every other extension gives CSV; else 500."""
    quotes_file_names: bool = False
    """The file name is always quoted, and in UTF-8; else only where it must be."""
    dashboards_by_slug: bool = False
    """GET, DELETE and favourite take the stored slug instead of the id, and `legacy` has no meaning."""
    dashboard_slug_is_stored: bool = False
    """`slug` in bodies is the stored one; else it is made from the name."""
    dashboard_has_owner: bool = False
    """`user` of a dashboard is the complete user."""
    dashboard_has_options: bool = True
    source_needs_admin: bool = False
    """A single data source is for admins only."""
    source_has_auto_limit: bool = True
    schema_is_job: bool = True
    """A schema that is not cached is a job; else it is read at once."""
    missing_settings: frozenset[str] = frozenset()
    """Members that `client_config` does not have."""

    # -- headers

    server: str = "gunicorn"
    content_policy: str = _POLICY
    sends_cookies: bool = True
    cookie_date_separator: str = " "
    front_end_headers: tuple[tuple[str, str], ...] = (
        ("Content-Disposition", "inline; filename=index.html"),
        ("Cache-Control", "no-cache, max-age=0"),
    )


_V26 = Version()
_V25 = replace(
    _V26,
    number="25.8.0",
    missing_settings=frozenset(["multiByteSearchEnabled", "thousandsSeparator", "decimalSeparator"]),
)
_V10 = replace(
    _V25,
    number="10.1.0",
    hash_folds_case=True,
    hash_has_defaults=False,
    strips_statements=False,
    post_limits_like_query=False,
    text_pattern=False,
    broken_check_is_400=False,
    no_source_is_401=False,
    cancelled_job_has_time=True,
    escapes_unicode=True,
    jsonb=False,
    no_login_by_flask=True,
    not_allowed_is_page=True,
    absolute_redirects=True,
    missing_routes=frozenset(["/api/dashboards/<dashboard_id>/fork", "/api/alerts/<alert_id>/eval"]),
    missing_settings=_V25.missing_settings | {"nullValue"},
    server="gunicorn/20.0.4",
    cookie_date_separator="-",
    front_end_headers=(("Cache-Control", "public, max-age=0"), ("Accept-Ranges", "bytes")),
)
_V8 = replace(
    _V10,
    number="8.0.0",
    has_auto_limit=False,
    job_has_result=False,
    job_has_time=False,
    cancelled_job_has_time=False,
    unknown_job_is_queued=True,
    queued_job_waits_to_be_cancelled=True,
    finished_job_can_be_cancelled=False,
    finished_job_seconds=4 * _HOUR,
    failed_job_seconds=4 * _HOUR,
    hash_ordered=True,
    jsonify_indents=True,
    two_blanks=True,
    suggests_routes=True,
    missing_routes=_V10.missing_routes
    | {"/api/dashboards/my", "/api/alerts/<alert_id>/mute", "/api/admin/queries/rq_status"},
    file_types=("json", "csv", "xlsx"),
    other_types_are_csv=True,
    quotes_file_names=True,
    dashboards_by_slug=True,
    dashboard_slug_is_stored=True,
    dashboard_has_owner=True,
    dashboard_has_options=False,
    source_needs_admin=True,
    source_has_auto_limit=False,
    schema_is_job=False,
    missing_settings=_V10.missing_settings | {"hidePlotlyModeBar", "disablePublicUrls", "ldapLoginEnabled"},
    server="gunicorn/19.7.1",
    content_policy=_OLD_POLICY,
    sends_cookies=False,
    front_end_headers=(("Cache-Control", "public, max-age=0"),),
)

VERSIONS = {"8": _V8, "10": _V10, "25": _V25, "26": _V26}
"""By the name that options and arguments use."""
NEWEST = "26"
