"""The heads room."""
