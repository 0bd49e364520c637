#include "extract.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "tar.h"

enum { NAME_ROOM = 16384 };

struct reader {
	int input;
	int root;
	struct tar_header header;
	char name[NAME_ROOM];
	char link[NAME_ROOM];
	bool has_name; /* from a member of its own, as has_link */
	bool has_link;
	struct failure *why;
};

/* Where a member goes: an open directory, and the name in it. */
struct place {
	int directory;
	const char *name;
};

static uint8_t buffer[65536];

static int complain(struct reader *reader)
{
	return fail(reader->why, 1, "extract: %s: %s", reader->name, strerror(errno));
}

static int refuse(struct reader *reader, const char *reason)
{
	return fail(reader->why, 1, "extract: %.256s: %s", reader->name, reason);
}

/* Reads that many bytes. 1: all of them; 0: none, as the input has ended. */
static int read_all(struct reader *reader, uint8_t *to, size_t size)
{
	size_t got = 0;

	while (got < size) {
		ssize_t count = read(reader->input, to + got, size - got);

		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0)
			return fail(reader->why, 1, "extract: read: %s", strerror(errno));
		if (count == 0 && got == 0)
			return 0;
		if (count == 0)
			return fail(reader->why, 1, "extract: the archive is cut short");
		got += (size_t)count;
	}
	return 1;
}

static int read_data(struct reader *reader, uint8_t *to, size_t size)
{
	int result = read_all(reader, to, size);

	if (result == 0 && size > 0)
		return fail(reader->why, 1, "extract: the archive is cut short");
	return result < 0 ? -1 : 0;
}

static int skip_padding(struct reader *reader, uint64_t size)
{
	uint8_t padding[TAR_BLOCK];

	return read_data(reader, padding, (TAR_BLOCK - size % TAR_BLOCK) % TAR_BLOCK);
}

static int skip_data(struct reader *reader)
{
	for (uint64_t left = reader->header.size; left > 0;) {
		size_t part = left < sizeof(buffer) ? (size_t)left : sizeof(buffer);

		if (read_data(reader, buffer, part) != 0)
			return -1;
		left -= part;
	}
	return skip_padding(reader, reader->header.size);
}

static int read_long(struct reader *reader, char *text)
{
	uint64_t size = reader->header.size;

	if (size == 0 || size > NAME_ROOM)
		return fail(reader->why, 1, "extract: a name of %llu bytes is too long",
			    (unsigned long long)size);
	if (read_data(reader, (uint8_t *)text, (size_t)size) != 0)
		return -1;
	text[size - 1] = '\0';
	return skip_padding(reader, size);
}

static bool is_dots(const char *name, size_t size)
{
	return size <= 2 && strncmp(name, "..", size) == 0;
}

/* Goes down one directory, made if it is missing. Closes the one it came from. */
static int go_down(struct reader *reader, int directory, const char *name)
{
	static const int flags = O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
	int inner = openat(directory, name, flags);

	if (inner < 0 && errno == ENOENT && mkdirat(directory, name, 0755) == 0)
		inner = openat(directory, name, flags);
	if (inner < 0)
		complain(reader);
	close(directory);
	return inner;
}

/* Finds the place of the path, whose parents are made. A path that is the root itself has no name.
 * path is cut behind the last component; on failure behind the one that is at fault. */
static int find_place(struct reader *reader, char *path, struct place *place)
{
	char *part = path;
	char *cut = NULL;
	int directory = fcntl(reader->root, F_DUPFD_CLOEXEC, 0);

	place->name = NULL;
	if (directory < 0)
		return complain(reader);
	if (*path == '/') {
		close(directory);
		return refuse(reader, "a name that is absolute");
	}
	while (*part != '\0') {
		size_t size = strcspn(part, "/");
		char *next = part + size + strspn(part + size, "/");

		if (size == 2 && is_dots(part, size)) {
			close(directory);
			return refuse(reader, "a name that leaves the directory");
		}
		if (size > 1 || !is_dots(part, size)) {
			if (place->name != NULL && (directory = go_down(reader, directory, place->name)) < 0)
				return -1;
			if (cut != NULL)
				*cut = '/';
			cut = *next != '\0' || part[size] != '\0' ? part + size : NULL;
			part[size] = '\0';
			place->name = part;
		}
		part = next;
	}
	place->directory = directory;
	return 0;
}

static int set_attributes(struct reader *reader, const struct place *place)
{
	const struct tar_header *header = &reader->header;
	const struct timespec times[2] = {
		{.tv_nsec = UTIME_OMIT},
		{.tv_sec = (time_t)header->mtime},
	};

	/* A change of the owner takes setuid away, so the mode comes behind it. */
	if (fchownat(place->directory, place->name, header->uid, header->gid,
		     AT_SYMLINK_NOFOLLOW) != 0)
		return complain(reader);
	if (header->type != TAR_SYMLINK &&
	    fchmodat(place->directory, place->name, header->mode, 0) != 0)
		return complain(reader);
	if (utimensat(place->directory, place->name, times, AT_SYMLINK_NOFOLLOW) != 0)
		return complain(reader);
	return 0;
}

static int make_file(struct reader *reader, const struct place *place)
{
	int file = openat(place->directory, place->name,
			  O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	uint64_t left = reader->header.size;
	int result = file < 0 ? complain(reader) : 0;

	while (result == 0 && left > 0) {
		size_t part = left < sizeof(buffer) ? (size_t)left : sizeof(buffer);
		size_t done = 0;

		result = read_data(reader, buffer, part);
		while (result == 0 && done < part) {
			ssize_t count = write(file, buffer + done, part - done);

			if (count < 0 && errno != EINTR)
				result = complain(reader);
			else if (count > 0)
				done += (size_t)count;
		}
		left -= part;
	}
	if (file >= 0 && close(file) != 0 && result == 0)
		result = complain(reader);
	return result == 0 ? skip_padding(reader, reader->header.size) : -1;
}

static int make_hard_link(struct reader *reader, const struct place *place)
{
	struct place target;
	int result;

	if (find_place(reader, reader->link, &target) != 0)
		return -1;
	if (target.name == NULL)
		errno = EISDIR;
	result = target.name == NULL ? -1
				     : linkat(target.directory, target.name, place->directory,
					      place->name, 0);
	if (result != 0)
		complain(reader);
	close(target.directory);
	return result;
}

static int make_directory(struct reader *reader, const struct place *place)
{
	struct stat status;

	if (mkdirat(place->directory, place->name, 0700) == 0)
		return 0;
	if (errno != EEXIST ||
	    fstatat(place->directory, place->name, &status, AT_SYMLINK_NOFOLLOW) != 0)
		return complain(reader);
	return S_ISDIR(status.st_mode) ? 0 : refuse(reader, "there is something else already");
}

/* What is there makes way, unless it is a directory: then nothing else can be made there. */
static int clear(struct reader *reader, const struct place *place)
{
	if (reader->header.type == TAR_DIRECTORY)
		return 0;
	if (unlinkat(place->directory, place->name, 0) == 0 || errno == ENOENT)
		return 0;
	return complain(reader);
}

static int make_node(struct reader *reader, const struct place *place)
{
	const struct tar_header *header = &reader->header;
	mode_t type = header->type == TAR_FIFO        ? S_IFIFO
		      : header->type == TAR_CHARACTER ? S_IFCHR
						      : S_IFBLK;

	if (mknodat(place->directory, place->name, type | 0600,
		    makedev(header->major, header->minor)) != 0)
		return complain(reader);
	return 0;
}

static int make(struct reader *reader, const struct place *place)
{
	if (clear(reader, place) != 0)
		return -1;
	switch (reader->header.type) {
	case TAR_FILE:
		return make_file(reader, place);
	case TAR_DIRECTORY:
		return make_directory(reader, place);
	case TAR_SYMLINK:
		return symlinkat(reader->link, place->directory, place->name) == 0 ? 0
										   : complain(reader);
	case TAR_HARD_LINK:
		return make_hard_link(reader, place);
	default:
		return make_node(reader, place);
	}
}

static int take_member(struct reader *reader)
{
	struct place place;
	int result;

	if (strchr("0123456", reader->header.type) == NULL)
		return refuse(reader, "a member of a type that is not of the GNU format");
	if (find_place(reader, reader->name, &place) != 0)
		return -1;
	/* The root is there, and stays as it is. */
	if (place.name == NULL) {
		close(place.directory);
		return skip_data(reader);
	}
	result = make(reader, &place);
	/* A hard link is the file that has its attributes already. */
	if (result == 0 && reader->header.type != TAR_HARD_LINK)
		result = set_attributes(reader, &place);
	close(place.directory);
	if (result == 0 && reader->header.type != TAR_FILE)
		result = skip_data(reader);
	return result;
}

/* Takes one header and what it is about. 1 at the archive's end. */
static int take(struct reader *reader)
{
	uint8_t block[TAR_BLOCK];
	int got = read_all(reader, block, sizeof(block));
	struct tar_header *header = &reader->header;

	if (got < 0)
		return -1;
	if (got == 0)
		return 1;
	switch (tar_decode(block, header)) {
	case TAR_END:
		return 1;
	case TAR_NONSENSE:
		return fail(reader->why, 1, "extract: this is no tar archive");
	case TAR_HEADER:
		break;
	}
	if (header->type == TAR_NAME_FOLLOWS || header->type == TAR_LINK_FOLLOWS) {
		bool is_name = header->type == TAR_NAME_FOLLOWS;

		*(is_name ? &reader->has_name : &reader->has_link) = true;
		return read_long(reader, is_name ? reader->name : reader->link);
	}
	if (!reader->has_name)
		strcpy(reader->name, header->name);
	if (!reader->has_link)
		strcpy(reader->link, header->link);
	reader->has_name = reader->has_link = false;
	return take_member(reader);
}

int extract(const char *directory, int input, struct failure *why)
{
	static struct reader reader;
	int result;

	reader.input = input;
	reader.why = why;
	reader.root = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (reader.root < 0)
		return fail(why, 1, "extract: %s: %s", directory, strerror(errno));
	do {
		result = take(&reader);
	} while (result == 0);
	close(reader.root);
	return result < 0 ? -1 : 0;
}
