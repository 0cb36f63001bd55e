"""Rows in, samples out: reading, conventions, cleaning, learning-rate curves."""
