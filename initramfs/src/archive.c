#include "archive.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "tar.h"

/* How long a member's name may become: deeper trees are refused. */
enum { NAME_ROOM = 16384 };

struct writer {
	int output;
	char name[NAME_ROOM]; /* of the member at hand */
	size_t name_size;
	char link[4096]; /* its target, if it is a symbolic link */
	struct failure *why;
};

static uint8_t buffer[65536];

static int complain(struct writer *writer)
{
	return fail(writer->why, 1, "archive: %s: %s", writer->name, strerror(errno));
}

static int write_all(struct writer *writer, const uint8_t *data, size_t size)
{
	while (size > 0) {
		ssize_t count = write(writer->output, data, size);

		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0)
			return fail(writer->why, 1, "archive: write: %s", strerror(errno));
		data += count;
		size -= (size_t)count;
	}
	return 0;
}

static int write_padding(struct writer *writer, uint64_t size)
{
	static const uint8_t zeros[TAR_BLOCK];

	return write_all(writer, zeros, (TAR_BLOCK - size % TAR_BLOCK) % TAR_BLOCK);
}

static int write_header(struct writer *writer, const struct tar_header *header)
{
	uint8_t block[TAR_BLOCK];

	tar_encode(block, header);
	return write_all(writer, block, sizeof(block));
}

/* A text without room in a header goes before it, as the data of a member. */
static int write_long(struct writer *writer, char type, const char *text)
{
	struct tar_header header = {.type = type, .name = "././@LongLink"};

	header.size = strlen(text) + 1;
	if (header.size <= TAR_NAME + 1)
		return 0;
	if (write_header(writer, &header) != 0 ||
	    write_all(writer, (const uint8_t *)text, header.size) != 0)
		return -1;
	return write_padding(writer, header.size);
}

static int write_member(struct writer *writer, const struct stat *status, char type, uint64_t size)
{
	struct tar_header header = {
		.type = type,
		.mode = status->st_mode & 07777,
		.uid = status->st_uid,
		.gid = status->st_gid,
		.major = major(status->st_rdev),
		.minor = minor(status->st_rdev),
		.size = size,
		.mtime = status->st_mtim.tv_sec,
	};

	strncpy(header.name, writer->name, TAR_NAME);
	strncpy(header.link, writer->link, TAR_NAME);
	if (write_long(writer, TAR_LINK_FOLLOWS, writer->link) != 0 ||
	    write_long(writer, TAR_NAME_FOLLOWS, writer->name) != 0)
		return -1;
	return write_header(writer, &header);
}

/* Writes so many bytes as the header has promised: not more, and zeros where there are fewer. */
static int write_content(struct writer *writer, int file, uint64_t size)
{
	uint64_t left = size;

	while (left > 0) {
		size_t part = left < sizeof(buffer) ? (size_t)left : sizeof(buffer);
		ssize_t count = read(file, buffer, part);

		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0)
			return complain(writer);
		if (count == 0) {
			memset(buffer, 0, part);
			count = (ssize_t)part;
		}
		if (write_all(writer, buffer, (size_t)count) != 0)
			return -1;
		left -= (uint64_t)count;
	}
	return write_padding(writer, size);
}

static int write_file(struct writer *writer, int directory, const char *name)
{
	int file = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	struct stat status;
	int result = -1;

	if (file < 0 || fstat(file, &status) != 0) {
		complain(writer);
	} else if (!S_ISREG(status.st_mode)) {
		errno = ESTALE;
		complain(writer);
	} else {
		result = write_member(writer, &status, TAR_FILE, (uint64_t)status.st_size);
		if (result == 0)
			result = write_content(writer, file, (uint64_t)status.st_size);
	}
	if (file >= 0)
		close(file);
	return result;
}

static int write_link(struct writer *writer, int directory, const char *name,
		      const struct stat *status)
{
	ssize_t size = readlinkat(directory, name, writer->link, sizeof(writer->link) - 1);
	int result;

	if (size < 0)
		return complain(writer);
	writer->link[size] = '\0';
	result = write_member(writer, status, TAR_SYMLINK, 0);
	writer->link[0] = '\0';
	return result;
}

static int write_entry(struct writer *writer, int directory, const char *name);

static int write_entries(struct writer *writer, DIR *stream)
{
	size_t size = writer->name_size;
	struct dirent *entry;

	while ((errno = 0, entry = readdir(stream)) != NULL) {
		size_t length = strlen(entry->d_name);

		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		/* One more for the slash of a directory. */
		if (size + length + 2 > sizeof(writer->name)) {
			errno = ENAMETOOLONG;
			return complain(writer);
		}
		memcpy(writer->name + size, entry->d_name, length + 1);
		writer->name_size = size + length;
		if (write_entry(writer, dirfd(stream), entry->d_name) != 0)
			return -1;
		writer->name_size = size;
		writer->name[size] = '\0';
	}
	return errno == 0 ? 0 : complain(writer);
}

/* Whether a directory's files are made up by the kernel as they are read, and so are no content. */
static bool is_made_up(int directory)
{
	struct statfs status;

	return fstatfs(directory, &status) == 0 &&
	       (status.f_type == PROC_SUPER_MAGIC || status.f_type == SYSFS_MAGIC);
}

static int write_directory(struct writer *writer, int directory, const char *name,
			   const struct stat *status)
{
	int inner = openat(directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *stream = inner >= 0 ? fdopendir(inner) : NULL;
	int result;

	if (stream == NULL) {
		complain(writer);
		if (inner >= 0)
			close(inner);
		return -1;
	}
	writer->name[writer->name_size++] = '/';
	writer->name[writer->name_size] = '\0';
	result = write_member(writer, status, TAR_DIRECTORY, 0);
	if (result == 0 && !is_made_up(inner))
		result = write_entries(writer, stream);
	closedir(stream);
	return result;
}

static int write_entry(struct writer *writer, int directory, const char *name)
{
	struct stat status;

	if (fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) != 0)
		/* Who was there a moment ago may have gone. */
		return errno == ENOENT ? 0 : complain(writer);
	switch (status.st_mode & S_IFMT) {
	case S_IFREG:
		return write_file(writer, directory, name);
	case S_IFDIR:
		return write_directory(writer, directory, name, &status);
	case S_IFLNK:
		return write_link(writer, directory, name, &status);
	case S_IFCHR:
		return write_member(writer, &status, TAR_CHARACTER, 0);
	case S_IFBLK:
		return write_member(writer, &status, TAR_BLOCK_DEVICE, 0);
	case S_IFIFO:
		return write_member(writer, &status, TAR_FIFO, 0);
	default:
		return 0;
	}
}

/* The last component, "." for the root. */
static void take_name(struct writer *writer, const char *path)
{
	size_t end = strlen(path);
	size_t start;

	while (end > 0 && path[end - 1] == '/')
		end--;
	for (start = end; start > 0 && path[start - 1] != '/'; start--)
		;
	writer->name_size = end - start;
	memcpy(writer->name, path + start, writer->name_size);
	if (writer->name_size == 0)
		writer->name[writer->name_size++] = '.';
	writer->name[writer->name_size] = '\0';
}

int archive(const char *path, int output, struct failure *why)
{
	static struct writer writer;
	static const uint8_t end[2 * TAR_BLOCK];
	struct stat status;

	writer.output = output;
	writer.why = why;
	if (strlen(path) >= 4096)
		return fail(why, 1, "archive: the path is too long");
	take_name(&writer, path);
	if (fstatat(AT_FDCWD, path, &status, AT_SYMLINK_NOFOLLOW) != 0)
		return fail(why, 1, "archive: %s: %s", path, strerror(errno));
	if (write_entry(&writer, AT_FDCWD, path) != 0)
		return -1;
	return write_all(&writer, end, sizeof(end));
}
