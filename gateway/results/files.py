"""Whether what Redash has sent is the file that was requested."""

from __future__ import annotations

import asyncio

from gateway.errors import UpstreamUnusable
from gateway.redash.downloads import END_BYTES, RenderedForm, is_csv_instead, is_end, is_file
from gateway.upstream.protocol import UpstreamResponse


def form_of(response: UpstreamResponse, form: RenderedForm) -> RenderedForm:
    """Return the form that a file really has. Refuse what is no such file, whatever its status says; a job, `null` or
    nothing would be kept like rows.

    Raises:
        UpstreamUnusable: it is none.
    """
    form = "csv" if is_csv_instead(response.content_type, form) else form
    if response.body.data is not None and not is_file(response.content_type, response.body.data, form):
        raise UpstreamUnusable(f"Redash's response is not a {form.upper()} file.")
    return form


async def whole_form_of(response: UpstreamResponse, form: RenderedForm) -> RenderedForm:
    """Return the same of a response that is there to its end, which is looked at, too. Raises as `form_of`."""
    form, body = form_of(response, form), response.body
    _, last = body.ends(0, END_BYTES) if body.data is not None else await asyncio.to_thread(body.ends, 0, END_BYTES)
    if not is_end(last, form):
        body.give_up()
        raise UpstreamUnusable(f"Redash's response is a {form.upper()} file without its end.")
    return form
