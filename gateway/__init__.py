"""Redash Gateway: a local caching gateway in front of the Redash API."""

__version__ = "0.1.0"


def needs_extra(extra: str) -> str:
    """Say what to do about an extra that is not installed.

    The package is on no index yet, so nobody may be sent there for its name, which anybody could take.
    """
    wheel = f"redash_gateway-{__version__}-py3-none-any.whl"
    return f"needs the extra '{extra}': pip install '.[{extra}]' in a checkout, or './{wheel}[{extra}]' from a wheel"
