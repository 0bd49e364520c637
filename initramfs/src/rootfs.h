/* The root file system: the image read-only below, memory or a disk above it, and what a
 * container sees. */
#ifndef HYPERSTART_ROOTFS_H
#define HYPERSTART_ROOTFS_H

#include <stdbool.h>

#include "failure.h"
#include "spec.h"

/* Mounts /dev, /proc and /sys of the initramfs, which all other steps need. */
int mount_initial(struct failure *why);

/* Mounts the image and the overlay over it; *is_dax tells whether files of the image really are
 * mapped, not copied (STATX_ATTR_DAX, which a mount option does not prove). */
int mount_root(const struct spec *spec, bool *is_dax, struct failure *why);

/* Opens the directory beside the overlay whose files enter_root binds into /etc. */
int identity_directory(struct failure *why);

/* Makes the overlay the root and mounts there what a container runtime would. identity is the
 * directory with hosts, hostname, machine-id and resolv.conf. */
int enter_root(int identity, struct failure *why);

#endif
