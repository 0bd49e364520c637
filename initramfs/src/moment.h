/* The time of the guest's own clock, which starts with the VM. */
#ifndef HYPERSTART_MOMENT_H
#define HYPERSTART_MOMENT_H

#include <stdint.h>
#include <sys/timerfd.h>
#include <time.h>

enum { NANOSECONDS = 1000000000 };

/* Nanoseconds of CLOCK_BOOTTIME. */
static inline uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_BOOTTIME, &time);
	return (uint64_t)time.tv_sec * NANOSECONDS + (uint64_t)time.tv_nsec;
}

/* The CPU's time stamp counter, which is zero when the machine begins to run. */
static inline uint64_t counter(void)
{
	return __builtin_ia32_rdtsc();
}

/* Has the timerfd due once, after so many milliseconds; at once after none. */
static inline void timer_arm(int timer, uint64_t milliseconds)
{
	struct itimerspec when = {
		.it_value = {.tv_sec = (time_t)(milliseconds / 1000),
			     .tv_nsec = (long)(milliseconds % 1000) * 1000000},
	};

	if (milliseconds == 0)
		when.it_value.tv_nsec = 1;
	timerfd_settime(timer, 0, &when, NULL);
}

#endif
