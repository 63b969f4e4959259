"""Gateway, nginx, Varnish and a bare aiohttp handler side by side; `python -m bench --help`."""
