"""Heads trained by gradient steps: settings, search, and one batched loop for all trials and seeds."""
