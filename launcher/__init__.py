"""Bundles, and the hypervisors that boot them."""
