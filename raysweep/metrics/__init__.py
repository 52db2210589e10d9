"""Identification, verification, expression, realism, front and uncertainty."""
