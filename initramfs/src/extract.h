/* A tar archive into a directory, which nothing in it can leave. */
#ifndef HYPERSTART_EXTRACT_H
#define HYPERSTART_EXTRACT_H

#include "failure.h"

/* Reads an archive from input into the directory. */
int extract(const char *directory, int input, struct failure *why);

#endif
