"""What to build: TOML recipes."""
