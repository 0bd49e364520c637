/* Blocks of a tar archive, in the GNU format. Nothing here makes a system call. */
#ifndef HYPERSTART_TAR_H
#define HYPERSTART_TAR_H

#include <stdint.h>

enum { TAR_BLOCK = 512, TAR_NAME = 100, TAR_LONG_NAME = 256 };

enum tar_type {
	TAR_FILE = '0',
	TAR_HARD_LINK = '1',
	TAR_SYMLINK = '2',
	TAR_CHARACTER = '3',
	TAR_BLOCK_DEVICE = '4',
	TAR_DIRECTORY = '5',
	TAR_FIFO = '6',
	TAR_NAME_FOLLOWS = 'L', /* the data is the next member's name */
	TAR_LINK_FOLLOWS = 'K', /* or its link's target */
};

/* What a header says; name and link only as far as they fit into one. */
struct tar_header {
	char type;
	uint32_t mode; /* without the type */
	uint32_t uid;
	uint32_t gid;
	uint32_t major;
	uint32_t minor;
	uint64_t size; /* of the data that follows, up to INT64_MAX */
	int64_t mtime; /* seconds since the epoch */
	char name[TAR_LONG_NAME + 1];
	char link[TAR_NAME + 1];
};

/* Fills in a block. Names that do not fit are cut off: they have gone before, as data of their own. */
void tar_encode(uint8_t *block, const struct tar_header *header);

enum tar_found { TAR_HEADER, TAR_END, TAR_NONSENSE };

/* Reads a block: a header, the zeros that end the archive, or nonsense. */
enum tar_found tar_decode(const uint8_t *block, struct tar_header *header);

#endif
