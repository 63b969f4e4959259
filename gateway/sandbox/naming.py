"""Texts that are made from names: slugs of dashboards, addresses of pictures."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Container


def slugged(name: str) -> str:
    """A name as part of a URL."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def free_slug(name: str, taken: Container[str]) -> str:
    """The slug of a name, with a number if it is taken."""
    base = slugged(name)
    numbered = (f"{base}_{number}" for number in itertools.count(1))
    return next(slug for slug in itertools.chain([base], numbered) if slug not in taken)


def gravatar(email: str) -> str:
    """The URL of the picture for an e-mail address."""
    digest = hashlib.md5(email.lower().encode(), usedforsecurity=False).hexdigest()
    return f"https://www.gravatar.com/avatar/{digest}?s=40&d=identicon"
