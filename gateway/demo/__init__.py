"""The demo: a sandbox Redash, a gateway in front of it, ten dashboards without and with it, and commands to paste.

It needs no file and keeps nothing.
"""

from gateway.demo.play import main

__all__ = ["main"]
