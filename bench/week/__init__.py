"""`python -m bench.week`: a week of a team's dashboards, simulated, with and without the gateway's own freshness.

The decisions are those of the gateway (`policy.plan`, `warming.ahead`); callers, clock and Redash are simulated.
"""
