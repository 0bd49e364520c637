#include "paths.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

/* Makes each part of path that ends before a slash within its first size bytes, or at size. */
static int make(const char *path, size_t size)
{
	char part[PATH_MAX];

	if (size >= sizeof(part)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	for (size_t end = 1; end <= size; end++) {
		if (end < size && path[end] != '/')
			continue;
		memcpy(part, path, end);
		part[end] = '\0';
		if (mkdir(part, 0755) != 0 && errno != EEXIST)
			return -1;
	}
	return 0;
}

int make_directories(const char *path)
{
	return make(path, strlen(path));
}

int make_parents(const char *path)
{
	const char *last = strrchr(path, '/');

	return last == NULL || last == path ? 0 : make(path, (size_t)(last - path));
}
