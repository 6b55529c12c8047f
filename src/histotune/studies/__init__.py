"""Whole experiments: functions that return complete, typed configs. Their docstrings state what to expect."""
