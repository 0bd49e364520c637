/* The root file system: the image read-only below, memory or a disk above it, and what a
 * container sees. */
#ifndef HYPERSTART_ROOTFS_H
#define HYPERSTART_ROOTFS_H

#include <stdbool.h>

#include "failure.h"
#include "spec.h"

/* Mounts /dev, /proc and /sys of the initramfs, which all other steps need. */
int mount_initial(struct failure *why);

/* Makes the directory, outside of every root, whose files enter_root binds into /etc. */
int mount_identity(struct failure *why);

/* Opens it, as the mount namespace that this process is in now has it. */
int identity_directory(struct failure *why);

/* Mounts the image and the overlay over it; *is_dax tells whether files of the image really are
 * mapped, not copied (STATX_ATTR_DAX, which a mount option does not prove). */
int mount_root(const struct container *container, bool *is_dax, struct failure *why);

/* What containers of a pod have in common, each a directory's descriptor or -1. */
struct shared {
	int terminals; /* /dev/pts */
	int memory;    /* /dev/shm */
};

/* Makes the overlay the root and mounts there what a container runtime would. identity is the
 * directory with hosts, hostname, machine-id and resolv.conf. */
int enter_root(int identity, const struct shared *shared, struct failure *why);

/* Makes path (0755) unless it is there, and mounts a file system of its own type on it. */
int mount_on(const char *path, const char *type, unsigned long flags, const char *options,
	     struct failure *why);

#define TERMINAL_OPTIONS "ptmxmode=0666,mode=0620,gid=5"
#define MEMORY_OPTIONS "mode=1777,size=64m"

#endif
