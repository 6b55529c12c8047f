"""The coverage study: how often each interval holds the truth, by simulation."""
