"""Does the transfer diagnosis name the right first cause? Synthetic cohorts with known causes."""
