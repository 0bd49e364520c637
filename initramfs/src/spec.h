/* The boot spec: what this VM is to run, as the launcher put it into the initramfs. */
#ifndef HYPERSTART_SPEC_H
#define HYPERSTART_SPEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "failure.h"
#include "mountline.h"
#include "parse.h"

enum {
	STRINGS_MAX = 16384,
	SEED_MAX = 512,
	HOSTNAME_MAX = 64,
	MACHINE_ID_SIZE = 33,
	CONTAINERS_MAX = 16,
};

/* Where a VM that is to become a template waits until it is copied. */
enum hold { HOLD_NOWHERE, HOLD_BEFORE_EXEC, HOLD_WHEN_LISTENING, HOLD_WHEN_HEALTHY };

struct text {
	char *start;
	size_t size;
};

/* A root with what is mounted in it, and what a command that runs there is if nobody says otherwise. */
struct container {
	char *environ[STRINGS_MAX];
	char *cwd;
	struct user user;
	struct root_device root;
	struct root_device upper; /* where what is written lies; no device: in memory */
	struct mount_line mounts[MOUNTS_MAX];
	size_t mount_count;
	bool is_read_only; /* the root, but for what is mounted there */
	int space;         /* its mount namespace; -1: hyperstart's own */
};

struct spec {
	char *argv[STRINGS_MAX]; /* empty: this is a pod, in which the host starts everything */
	char *health[STRINGS_MAX]; /* the health check's argv; empty without one */
	struct health_times health_times;
	struct container containers[CONTAINERS_MAX]; /* the first is the application's */
	size_t container_count;
	char *hostname;
	struct network network;
	struct text hosts;
	struct text machine_id; /* empty: it is drawn */
	struct text resolv_conf;
	struct text seed; /* empty: the kernel finds its own */
	uint64_t stop_signal;
	bool is_watched; /* somebody wants to know when it listens and is healthy, as soon as it is */
	bool are_ports_watched; /* and on which ports */
	bool has_terminal; /* of that size */
	struct terminal_size terminal_size;
	enum hold hold;
	uint64_t clock; /* nanoseconds since the epoch when the VM was started; 0: it has its own */
	bool is_alone;  /* no host is there: output goes to the console, and the end is told there */
};

/* Whether there is no application, but containers in which the host starts what it likes. */
bool spec_is_pod(const struct spec *spec);

/* Whether no host is there, which must be known before it is waited for. */
bool spec_is_alone(void);

/* Whether a machine that is alone takes what a seed says. */
bool spec_takes_seed(void);

/* Reads /spec, and forgets what an earlier call has read. */
int spec_read(struct spec *spec, struct failure *why);

/* Adds data to the file called name; what an earlier spec_read has read of it is dropped first. */
int spec_put(const char *name, const void *data, size_t size, struct failure *why);

/* Deletes the seed: whoever reads the spec again must have been given another one. */
int spec_spend_seed(struct failure *why);

/* Deletes /spec and /init: nothing needs them any more, and they are memory. */
void spec_forget(void);

#endif
