"""Fuzzing of a whole gateway, as long as one likes: isolation and texts are commands, with short forms as tests."""
