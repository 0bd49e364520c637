"""Recipes and images joined into bundles, and the command line over it all."""
