#include "builtin.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "archive.h"
#include "extract.h"
#include "failure.h"

enum { STATUS_DONE = 0, STATUS_WRONG_USE = 2 };

static int run_archive(const char *path, struct failure *why)
{
	return archive(path, STDOUT_FILENO, why);
}

static int run_extract(const char *directory, struct failure *why)
{
	return extract(directory, STDIN_FILENO, why);
}

static int run_stat(const char *path, struct failure *why)
{
	char target[4096] = "";
	struct stat status;

	if (lstat(path, &status) != 0)
		return fail(why, 1, "stat: %s: %s", path, strerror(errno));
	if (S_ISLNK(status.st_mode) && readlink(path, target, sizeof(target) - 1) < 0)
		return fail(why, 1, "stat: %s: %s", path, strerror(errno));
	dprintf(STDOUT_FILENO, "%o %" PRId64 " %" PRId64 " %u %u%s%s\n", status.st_mode,
		(int64_t)status.st_size, (int64_t)status.st_mtim.tv_sec, status.st_uid, status.st_gid,
		*target != '\0' ? " " : "", target);
	return 0;
}

static const struct {
	const char *name;
	int (*run)(const char *argument, struct failure *why);
} builtins[] = {
	{"archive", run_archive},
	{"extract", run_extract},
	{"stat", run_stat},
};

int builtin_run(char *const *argv)
{
	struct failure why;

	for (size_t i = 0; i < sizeof(builtins) / sizeof(builtins[0]); i++) {
		if (strcmp(argv[0], builtins[i].name) != 0 || argv[1] == NULL || argv[2] != NULL)
			continue;
		if (builtins[i].run(argv[1], &why) == 0)
			return STATUS_DONE;
		dprintf(STDERR_FILENO, "%s\n", why.text);
		return (int)why.status;
	}
	dprintf(STDERR_FILENO, "hyperstart has no built-in \"%s\" with such arguments\n", argv[0]);
	return STATUS_WRONG_USE;
}
