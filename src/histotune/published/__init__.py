"""Published scores, and a user's own beside those of the same protocol."""
