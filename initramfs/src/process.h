/* One process: forked, made into what it is to be, and what it tells of that. */
#ifndef HYPERSTART_PROCESS_H
#define HYPERSTART_PROCESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "failure.h"
#include "parse.h"
#include "stream.h"

/* What is to run, and as whom. */
struct command {
	const struct user *user;
	const char *cwd;
	char *const *environ;
	char *const *argv;
	bool is_builtin; /* argv names a part of hyperstart (builtin.h) */
	int space;       /* the mount namespace that it is in; -1: this process's */
};

/* A child's standard files; terminal is the one among them, -1 without. */
struct standard {
	int input;
	int output;
	int error;
	int terminal;
};

/* How a process is born, beside its command. */
struct birth {
	bool wants_input; /* else it reads an end of file */
	bool has_terminal;
	bool has_console; /* its output is the machine's console, and no host hears it */
	bool is_asynchronous; /* nobody waits for its execve: process_hear never blocks */
	int group;            /* it enters a control group by writing "0" there; -1: it does not */
	struct terminal_size size;
};

/* What a child has told so far: when it was about to execute, and on failure why not. */
struct story {
	uint8_t told[sizeof(uint64_t) + sizeof(struct failure)];
	size_t size;
};

struct child {
	pid_t pid;
	int report; /* becomes readable with its story */
	struct stream_ends ends;
};

/* In a child: becomes the command. Tells through the pipe report, if there is one (not -1), when and
 * why not. */
__attribute__((noreturn))
void process_become(const struct command *command, const struct standard *files, int report);

/* Forks the child. */
int process_start(const struct command *command, const struct birth *birth, struct child *child,
		  struct failure *why);

enum heard { HEARD_NOTHING, HEARD_START, HEARD_FAILURE };

/* Reads on in the story: HEARD_START with the nanoseconds of CLOCK_BOOTTIME just before the execve
 * that has succeeded, HEARD_FAILURE with why it has not. */
enum heard process_hear(int report, struct story *story, uint64_t *executed, struct failure *why);

#endif
