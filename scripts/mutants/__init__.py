"""Small faults planted in the package, to see that the tests notice them: ``python -m scripts.mutants``.

The list of faults is ``scripts/mutants.toml``. A fault is anchored to the text of one statement, not to a file, so that
the list outlives moves of functions between files: what the tests noticed before a move they must notice after it.
"""
