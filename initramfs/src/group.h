/* The control groups of a pod's containers, by which all that runs in one can be ended. */
#ifndef HYPERSTART_GROUP_H
#define HYPERSTART_GROUP_H

#include <stddef.h>

struct group {
	int entrance; /* whoever writes "0" there is in it; -1 without a group */
	int end;      /* whoever writes "1" there kills all that are */
};

/* Makes the group of that number; -1 with errno. */
int group_make(size_t number, struct group *group);

/* Kills all that are in it; one that is none has nobody. */
void group_kill(const struct group *group);

#endif
