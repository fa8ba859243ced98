"""What the module does without a window: preflight checks, the run of one pair, packages, sample data."""
