"""The solvers of the linear heads."""
