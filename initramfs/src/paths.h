/* Directories made along a path. */
#ifndef HYPERSTART_PATHS_H
#define HYPERSTART_PATHS_H

/* Makes path with its parents (0755); what is there stays as it is. Returns 0, or -1 with errno. */
int make_directories(const char *path);

/* Makes the directories above path alone. */
int make_parents(const char *path);

#endif
