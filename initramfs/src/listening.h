/* Noticing the first TCP port that is listened on, for the boot's timeline. */
#ifndef HYPERSTART_LISTENING_H
#define HYPERSTART_LISTENING_H

#include <stdint.h>

struct listening {
	int timer; /* readable when it is time to look; -1 when there is nothing to look for */
	uint64_t started; /* nanoseconds of CLOCK_BOOTTIME */
};

/* Begins to look. The kernel tells nobody, so its tables are read: first after 5 ms, then at
 * intervals that grow with the time waited, so that a slow start is not made slower. */
int listening_start(struct listening *listening, uint64_t started);

/* Looks, as the timer says. Returns the time when a listener was found, 0 if there is none yet. */
uint64_t listening_look(struct listening *listening);

#endif
