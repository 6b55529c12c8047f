"""Measured claims: each is a target, a script that measures it, and a recorded result."""
