"""Measurements: `aegis bench`. Every claim about speed is a ratio against a baseline in the same run."""
