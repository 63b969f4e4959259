"""Fuzzing of a whole gateway for as long as one likes: two commands, each with a short form as a test."""
