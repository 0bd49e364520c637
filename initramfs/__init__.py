"""hyperstart, the first process of a HyperVM, and the initramfs that carries it."""
