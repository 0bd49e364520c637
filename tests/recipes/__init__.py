"""The room of recipes."""
