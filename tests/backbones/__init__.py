"""Tests of the backbones room."""
