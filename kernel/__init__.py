"""The HyperKernel: its configuration, its build, and what an ELF kernel says of itself."""
