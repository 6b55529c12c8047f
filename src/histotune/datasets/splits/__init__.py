"""Splits: who may learn from what, as named, hashed records that can be saved and checked."""
