/* How a step tells what went wrong: one line for the user, and the exit status it means. */
#ifndef HYPERSTART_FAILURE_H
#define HYPERSTART_FAILURE_H

#include <stdint.h>

enum {
	STATUS_FAILED = 125,         /* hyperstart could not do its work */
	STATUS_NOT_EXECUTABLE = 126, /* the command is there but cannot be executed */
	STATUS_NOT_FOUND = 127,      /* the command is not there */
};

struct failure {
	uint32_t status;
	char text[512]; /* printable ASCII */
};

/* Fills in why and returns -1, so that "return fail(...)" reads as what it is. */
__attribute__((format(printf, 3, 4)))
int fail(struct failure *why, uint32_t status, const char *format, ...);

#endif
