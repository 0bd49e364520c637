#include "copy.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

/* Directories deeper than this are no application's, and would use up the stack. */
enum { DEPTH_MAX = 128, OPEN_DIRECTORIES = 16, XATTRS_MAX = 65536, PIECE = 1 << 24 };

static int copy_xattrs(int from, int to)
{
	static char names[XATTRS_MAX];
	static char value[XATTRS_MAX];
	ssize_t size = flistxattr(from, names, sizeof(names));

	if (size < 0)
		return errno == ENOTSUP ? 0 : -1;
	for (const char *name = names; name < names + size; name += strlen(name) + 1) {
		ssize_t length = fgetxattr(from, name, value, sizeof(value));

		if (length < 0 || fsetxattr(to, name, value, (size_t)length, 0) != 0)
			return -1;
	}
	return 0;
}

/* Last of all: chown clears set-id bits and capabilities, and writing changes times. */
static int copy_attributes(int from, int to, const struct stat *status)
{
	struct timespec times[2] = {status->st_atim, status->st_mtim};

	if (fchown(to, status->st_uid, status->st_gid) != 0 ||
	    fchmod(to, status->st_mode & 07777) != 0 || copy_xattrs(from, to) != 0)
		return -1;
	return futimens(to, times);
}

static int copy_data(int from, int to)
{
	ssize_t count;

	while ((count = sendfile(to, from, NULL, PIECE)) > 0)
		;
	return (int)count;
}

/* Returns result, errno as it is. */
static int close_both(int source, int target, int result)
{
	int error = errno;

	if (source >= 0)
		close(source);
	if (target >= 0)
		close(target);
	errno = error;
	return result;
}

static int copy_file(int from, int to, const char *name, const struct stat *status)
{
	int source = openat(from, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	int target = openat(to, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	int result = -1;

	if (source >= 0 && target >= 0 && copy_data(source, target) == 0)
		result = copy_attributes(source, target, status);
	return close_both(source, target, result);
}

/* A symlink, a device, a FIFO or a socket: there is nothing in it. */
static int copy_node(int from, int to, const char *name, const struct stat *status)
{
	struct timespec times[2] = {status->st_atim, status->st_mtim};
	char target[PATH_MAX];

	if (S_ISLNK(status->st_mode)) {
		ssize_t size = readlinkat(from, name, target, sizeof(target) - 1);

		if (size < 0)
			return -1;
		target[size] = '\0';
		if (symlinkat(target, to, name) != 0)
			return -1;
	} else if (mknodat(to, name, status->st_mode, status->st_rdev) != 0 ||
		   fchmodat(to, name, status->st_mode & 07777, 0) != 0) {
		return -1;
	}
	if (fchownat(to, name, status->st_uid, status->st_gid, AT_SYMLINK_NOFOLLOW) != 0)
		return -1;
	return utimensat(to, name, times, AT_SYMLINK_NOFOLLOW);
}

static int copy_into(int from, int to, const struct stat *directory, int depth);

static int copy_subdirectory(int from, int to, const char *name, const struct stat *status,
			     int depth)
{
	int source = openat(from, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	int target = -1;
	int result = -1;

	if (source >= 0 && mkdirat(to, name, 0700) == 0)
		target = openat(to, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (target >= 0)
		result = copy_into(source, target, status, depth - 1);
	return close_both(source, target, result);
}

static int copy_entry(int from, int to, const char *name, dev_t device, int depth)
{
	struct stat status;

	if (fstatat(from, name, &status, AT_SYMLINK_NOFOLLOW) != 0)
		return -1;
	if (S_ISDIR(status.st_mode))
		return status.st_dev == device ? copy_subdirectory(from, to, name, &status, depth)
					       : mkdirat(to, name, 0755);
	if (S_ISREG(status.st_mode))
		return copy_file(from, to, name, &status);
	return copy_node(from, to, name, &status);
}

static int copy_into(int from, int to, const struct stat *directory, int depth)
{
	int result = 0;
	int again = openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *stream = again >= 0 ? fdopendir(again) : NULL;
	struct dirent *entry;

	if (stream == NULL)
		return -1;
	if (depth == 0) {
		errno = ELOOP;
		result = -1;
	}
	while (result == 0 && (entry = readdir(stream)) != NULL) {
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			result = copy_entry(from, to, entry->d_name, directory->st_dev, depth);
	}
	closedir(stream);
	return result != 0 ? -1 : copy_attributes(from, to, directory);
}

int copy_directory(int from, int to)
{
	struct stat status;

	return fstat(from, &status) != 0 ? -1 : copy_into(from, to, &status, DEPTH_MAX);
}

static int remove_one(const char *path, const struct stat *status, int flag, struct FTW *place)
{
	(void)status;
	(void)flag;
	(void)place;
	return remove(path);
}

int remove_tree(const char *path)
{
	if (nftw(path, remove_one, OPEN_DIRECTORIES, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) == 0)
		return 0;
	return errno == ENOENT ? 0 : -1;
}
