"""The command line: each command builds arguments, calls one function and prints what it gives."""
