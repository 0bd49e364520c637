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

/* Returns once the application's execve has succeeded, or says why it did not. */
int process_start(const struct spec *spec, struct process *process, struct failure *why);

#endif
