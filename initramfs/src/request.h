/* What the host asks for by EXEC (docs/hyperstart.md). Nothing here makes a system call. */
#ifndef HYPERSTART_REQUEST_H
#define HYPERSTART_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "channel.h"
#include "failure.h"
#include "parse.h"
#include "spec.h"

struct request {
	uint32_t process;
	uint32_t container;
	bool wants_input;
	bool has_terminal; /* of that size */
	bool is_builtin;
	struct terminal_size terminal_size;
	bool has_user; /* else it is the container's */
	struct user user;
	char *cwd; /* empty: the container's */
	char *environ[STRINGS_MAX];
	char *argv[STRINGS_MAX];
};

/* Reads the message's payload, into which the result points; there are so many containers. */
int request_read(const struct message *message, size_t containers, struct request *request,
		 struct failure *why);

/* Fills in merged: the variables of both, where the latter come in place of those of the same name
 * of the former. It has room for limit pointers, the NULL at the end included. */
int merge_environ(char *const *former, char *const *latter, char **merged, size_t limit);

#endif
