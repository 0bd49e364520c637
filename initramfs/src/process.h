/* The application: started as the spec says, with pipes for its output. */
#ifndef HYPERSTART_PROCESS_H
#define HYPERSTART_PROCESS_H

#include <sys/types.h>

#include "failure.h"
#include "spec.h"

struct process {
	pid_t pid;
	int output; /* the ends that hyperstart reads */
	int error;
};

/* Returns once the application's execve has succeeded, or says why it did not. */
int process_start(const struct spec *spec, struct process *process, struct failure *why);

#endif
