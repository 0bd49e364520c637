/* The image's HEALTHCHECK, run beside the application. */
#ifndef HYPERSTART_HEALTH_H
#define HYPERSTART_HEALTH_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "spec.h"

enum health_change { HEALTH_SAME, HEALTH_BETTER, HEALTH_WORSE };

struct health {
	const struct spec *spec;
	int timer;          /* -1 without a check; the next one is due, or this one is overdue */
	pid_t pid;          /* of the check that runs; 0 between two */
	uint64_t started;   /* when the application was; CLOCK_BOOTTIME, as all moments here */
	uint64_t counted;   /* when a failure was counted last, or the application started */
	uint64_t failures;  /* so many in a row */
	bool is_healthy;
	bool is_unhealthy;
};

/* Starts to watch over the application; without a health check in spec nothing ever comes of it.
 * -1 with errno. */
int health_start(struct health *health, const struct spec *spec, uint64_t started);

/* Does what the timer is due for. */
void health_turn(struct health *health);

/* Takes the end of the check that ran, with its status as of waitpid(2). */
enum health_change health_judge(struct health *health, int status);

/* Ends all checks. */
void health_stop(struct health *health);

#endif
