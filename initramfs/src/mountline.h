/* The boot spec's mounts (docs/hyperstart.md, "Mounts"). Nothing here makes a system call. */
#ifndef HYPERSTART_MOUNTLINE_H
#define HYPERSTART_MOUNTLINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MOUNTS_MAX = 64 };

enum mount_kind {
	MOUNT_SHARE,  /* 9p: source is a tag of virtio-9p */
	MOUNT_DISK,   /* source is a device with an ext4 file system */
	MOUNT_FILE,   /* source is a file of the spec's directory */
	MOUNT_MEMORY, /* tmpfs: there is no source */
	MOUNT_VOLUME, /* a directory of the root itself */
	MOUNT_POD,    /* one that containers of a pod share, by its name */
};

struct mount_line {
	enum mount_kind kind;
	const char *source;
	const char *path;
	unsigned long flags;
	bool is_filled; /* a disk that is empty takes what the image has at path */
	uint64_t modified; /* a file: seconds since the epoch */
	char *data;        /* what the file system itself is told */
};

/* Reads lines of four strings each: kind, source, path, and options with commas between them.
 * strings ends with NULL and is written to; lines point into it. Returns 0 with *count, or -1. */
int parse_mounts(char **strings, struct mount_line *lines, size_t limit, size_t *count);

#endif
