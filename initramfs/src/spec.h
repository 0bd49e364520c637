/* The boot spec: what this VM is to run, as the launcher put it into the initramfs. */
#ifndef HYPERSTART_SPEC_H
#define HYPERSTART_SPEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "failure.h"
#include "parse.h"

enum { STRINGS_MAX = 16384, SEED_MAX = 512, HOSTNAME_MAX = 64 };

struct text {
	char *start;
	size_t size;
};

struct spec {
	char *argv[STRINGS_MAX];
	char *environ[STRINGS_MAX];
	char *cwd;
	char *hostname;
	struct user user;
	struct root_device root;
	struct network network;
	struct text hosts;
	struct text resolv_conf;
	struct text seed;
	uint64_t stop_signal;
	bool watches_listening; /* whether the first port listened on is told */
	uint64_t clock; /* nanoseconds since the epoch when the VM was started */
};

/* Reads /spec. The strings live as long as the process. */
int spec_read(struct spec *spec, struct failure *why);

/* Deletes /spec and /init: nothing needs them any more, and they are memory. */
void spec_forget(void);

#endif
