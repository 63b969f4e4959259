"""The operator's listener: metrics, health, purge, reload, and the status page as HTML, JSON and live events."""
