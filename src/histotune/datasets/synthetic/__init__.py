"""A rendered cohort in the layouts of BreakHis and PatchCamelyon, with every fact about it known."""
