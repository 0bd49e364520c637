/* What is mounted for the application beside its root: shares, disks, files, memory, volumes. */
#ifndef HYPERSTART_MOUNTS_H
#define HYPERSTART_MOUNTS_H

#include "failure.h"
#include "spec.h"

/* What a mount shows that lies outside of the container's root, each by a descriptor or -1. */
struct mount_sources {
	int fds[MOUNTS_MAX];
};

/* Opens them, which must be done before enter_root: no path leads there afterwards. */
int mounts_open(const struct container *container, struct mount_sources *sources,
		struct failure *why);

/* Mounts all in their order, inside the root, makes the root read-only if that is wanted, and
 * closes the sources. Mountpoints that are missing are made. */
int mounts_take(const struct container *container, struct mount_sources *sources,
		struct failure *why);

/* Where the directories lie that containers of a pod share. */
#define POD_DIRECTORIES "/pod"

#endif
