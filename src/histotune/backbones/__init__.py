"""The backbones room."""
