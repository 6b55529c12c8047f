"""Every magnification trains, every magnification is scored."""
