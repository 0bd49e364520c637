"""Measurements against the usual tools; each prints a table and says how it measured."""
