#include "group.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define GROUP "/sys/fs/cgroup/container-%zu"

/* Held open, as what an image mounts over their paths is its own affair. */
int group_make(size_t number, struct group *group)
{
	char path[64];

	*group = (struct group){-1, -1};
	snprintf(path, sizeof(path), GROUP, number);
	if (mkdir(path, 0755) != 0 && errno != EEXIST)
		return -1;
	snprintf(path, sizeof(path), GROUP "/cgroup.procs", number);
	group->entrance = open(path, O_WRONLY | O_CLOEXEC);
	snprintf(path, sizeof(path), GROUP "/cgroup.kill", number);
	group->end = open(path, O_WRONLY | O_CLOEXEC);
	return group->entrance < 0 || group->end < 0 ? -1 : 0;
}

void group_kill(const struct group *group)
{
	if (group->end >= 0)
		(void)!write(group->end, "1", 1);
}
