"""Why an external validation falls short: the loss split, remedies with their recovery, the first cause in words."""
