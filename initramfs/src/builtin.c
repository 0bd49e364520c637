#include "builtin.h"

#include <stdio.h>
#include <unistd.h>

#include "failure.h"

int builtin_run(char *const *argv)
{
	dprintf(STDERR_FILENO, "hyperstart has no \"%s\"\n", argv[0]);
	return STATUS_NOT_FOUND;
}
