/* Pseudo-terminals: the controlling terminal of a process that is to have one. */
#ifndef HYPERSTART_TERMINAL_H
#define HYPERSTART_TERMINAL_H

#include "failure.h"
#include "parse.h"

struct terminal {
	int ours;   /* the end that we read and write, non-blocking */
	int theirs; /* the end that becomes the process's standard files */
};

/* Opens a new terminal of that size, which belongs to the user with that id. */
int terminal_open(struct terminal *terminal, const struct terminal_size *size, uint32_t uid,
		  struct failure *why);

/* In a child that leads its session: makes the terminal the controlling one. -1 with errno. */
int terminal_take(int theirs);

/* Gives the terminal another size, of which its foreground processes are told. */
void terminal_resize(int ours, const struct terminal_size *size);

#endif
