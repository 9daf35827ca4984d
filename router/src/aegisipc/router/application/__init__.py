"""The router at work: follow, fold, decide, append."""
