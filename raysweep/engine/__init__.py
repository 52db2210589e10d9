"""Worker pools, reference store, ledger and the Ray session."""
