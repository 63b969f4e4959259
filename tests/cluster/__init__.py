"""Several gateways that share one Redis, as operators run them: real processes, judged by what they answer, by their
metrics and by what the sandbox has seen.
"""
