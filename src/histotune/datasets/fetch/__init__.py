"""Data sets fetched from their own homes: resumed, verified, unpacked safely, never half-finished."""
