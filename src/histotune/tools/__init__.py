"""Files, devices, errors, progress, tables: what any room may use."""
