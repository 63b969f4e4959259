"""Fuzzing of a whole gateway for as long as one likes: each module is a command, and has a short form as a test."""
