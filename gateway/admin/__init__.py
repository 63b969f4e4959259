"""The operator's listener: metrics, health, purge, reload, and the console as HTML, JSON and live events."""
