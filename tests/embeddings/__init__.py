"""Tests of the embeddings room."""
