"""Tests of the images room."""
