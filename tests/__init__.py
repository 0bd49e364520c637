"""The tests: one folder per room, what they share in support/."""
