"""What a machine starts from that has firmware: disks and discs, laid out to the byte.

Nothing here knows of images, kernels or bundles: each module writes one format of content that it
is given, and the same content gives the same bytes.

| module | what it gives |
|---|---|
| ``extents`` | ``Image``: a disk as the pieces that are not zero |
| ``gpt`` | the partition table |
| ``fat`` | the file system of an EFI system partition |
| ``uki`` | a kernel, its initramfs and its command line as one EFI program |
| ``raw``, ``qcow2``, ``vhd`` | an Image in a file of that format |
| ``iso`` | ISO 9660 file systems, bootable or not |
| ``seed`` | what a machine is told by such a disc (NoCloud, config drive) |
"""
