/* All processes that the host knows by a number: the application, which is 0, and those of EXEC. */
#ifndef HYPERSTART_PROCESSES_H
#define HYPERSTART_PROCESSES_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "channel.h"
#include "failure.h"
#include "group.h"
#include "process.h"
#include "spec.h"
#include "stream.h"

enum { APPLICATION = 0 }; /* its number, and its place */

struct process {
	bool is_there;
	bool has_started; /* its execve has succeeded */
	bool is_alive;
	uint32_t number;
	pid_t pid;
	int report; /* -1 once its story is heard */
	struct story story;
	uint32_t status; /* 0 to 255: 128+N for death by signal N */
};

struct processes {
	struct channel *channel;
	struct spec *spec;
	struct group groups[CONTAINERS_MAX]; /* of a pod */
	bool is_ending;                      /* a pod, in which nothing more is started */
	struct stream stream;
	uint32_t last; /* the highest number so far */
	struct process list[FLOWS_MAX];
};

/* Starts the application; returns once its execve has succeeded, at *executed, or says why it has
 * not. */
int processes_begin(struct processes *all, uint64_t *executed, struct failure *why);

/* Makes ready for what the host starts in the containers of a pod, which has no application. */
int processes_begin_pod(struct processes *all, struct failure *why);

/* Kills all that runs in a container of a pod. */
void processes_clear(struct processes *all, uint32_t container);

/* Ends a pod: asks all that the host has started to end, and starts no more. */
void processes_end_pod(struct processes *all);

/* Obeys EXEC: answers STARTED or REFUSED, maybe later. */
void processes_exec(struct processes *all, const struct message *message);

/* Answers an EXEC that cannot be obeyed now. */
void refuse_exec(const struct channel *channel, const struct message *message, const char *reason);

/* Sends a signal to the process with that number, if it is alive. */
void processes_signal(struct processes *all, uint32_t number, int signal);

/* Gives the terminal of a process, if it has one, another size. */
void processes_resize(struct processes *all, uint32_t number, const struct terminal_size *size);

/* Learns that a child is dead, with its status as of waitpid(2). */
void processes_bury(struct processes *all, pid_t pid, int status);

enum { PROCESSES_WATCHED = STREAM_WATCHED + FLOWS_MAX };

/* As stream_watch and stream_turn. */
size_t processes_watch(const struct processes *all, struct pollfd *watched);
int processes_turn(struct processes *all, const struct pollfd *watched, struct failure *why);

/* Whether the application is dead and all of its output is sent; or all of an ending pod's is. */
bool processes_are_over(const struct processes *all);

#endif
