"""Published evaluation protocols, repeated as they are, each with what weakens its numbers."""
