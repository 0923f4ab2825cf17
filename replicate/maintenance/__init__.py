"""Looking after a store: checking it, folding its records."""
