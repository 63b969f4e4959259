"""Long fuzz runs against the real processes, and their short forms in the suite.

PYTHONPATH=tests python -m fuzz.texts --seconds 3600 --seed 1
"""
