/* A tree of files as a tar archive. */
#ifndef HYPERSTART_ARCHIVE_H
#define HYPERSTART_ARCHIVE_H

#include "failure.h"

/* Writes path, with all below it, to output. */
int archive(const char *path, int output, struct failure *why);

#endif
