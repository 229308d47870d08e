"""Serving engines for the tests: programs that run in an environment of their own, and what they are asked to load."""
