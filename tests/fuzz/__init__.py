"""Fuzzing of a whole gateway for as long as one likes: isolation and texts are commands, and have short forms as tests."""
