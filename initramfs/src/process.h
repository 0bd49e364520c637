/* The application: started as the spec says, with pipes for its standard files. */
#ifndef HYPERSTART_PROCESS_H
#define HYPERSTART_PROCESS_H

#include <stdint.h>
#include <sys/types.h>

#include "failure.h"
#include "spec.h"

struct process {
	pid_t pid;
	int input;  /* our ends of its standard files, non-blocking */
	int output;
	int error;
	uint64_t executed; /* nanoseconds of CLOCK_BOOTTIME just before its execve */
};

/* A child's standard files. */
struct standard {
	int input;
	int output;
	int error;
};

/* In a child: becomes argv with the user, the directory and the environment of the application.
 * Tells through the pipe report, if there is one (not -1), when and why not. */
__attribute__((noreturn))
void process_become(const struct spec *spec, char *const *argv, const struct standard *files,
		    int report);

/* Returns once the application's execve has succeeded, or says why it did not. */
int process_start(const struct spec *spec, struct process *process, struct failure *why);

#endif
