/* Noticing which TCP ports are listened on. */
#ifndef HYPERSTART_LISTENING_H
#define HYPERSTART_LISTENING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "parse.h"

/* Who listens on more has the rest of them untold. */
enum { LISTENERS_MAX = 32 };

struct listening {
	int timer; /* readable when it is time to look; -1 when there is nothing to look for */
	uint64_t started; /* nanoseconds of CLOCK_BOOTTIME */
	bool is_for_all;  /* the first one is not enough */
	size_t known;
	struct listener listeners[LISTENERS_MAX];
};

/* Begins to look. The kernel tells nobody, so its tables are read: first after 5 ms, then at
 * intervals that grow with the time waited, so that a slow start is not made slower. */
int listening_start(struct listening *listening, uint64_t started, bool is_for_all);

/* Looks, as the timer says. Returns how many listeners are new, the last ones of those known. */
size_t listening_look(struct listening *listening);

#endif
