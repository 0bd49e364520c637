#include "listening.h"

#include <fcntl.h>
#include <stdbool.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "moment.h"
#include "parse.h"

enum { FIRST_LOOK = 5000000, SHARE_OF_WAIT = 16 };

/* Who listens on nothing for so long never will. */
#define PATIENCE (600ULL * NANOSECONDS)

static int arm(const struct listening *listening)
{
	uint64_t wait = (now() - listening->started) / SHARE_OF_WAIT;
	struct itimerspec when = {0};

	if (wait < FIRST_LOOK)
		wait = FIRST_LOOK;
	when.it_value.tv_sec = (time_t)(wait / NANOSECONDS);
	when.it_value.tv_nsec = (long)(wait % NANOSECONDS);
	return timerfd_settime(listening->timer, 0, &when, NULL);
}

static void give_up(struct listening *listening)
{
	close(listening->timer);
	listening->timer = -1;
}

int listening_start(struct listening *listening, uint64_t started)
{
	listening->started = started;
	listening->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	return listening->timer < 0 ? -1 : arm(listening);
}

static bool is_listened(const char *table)
{
	char text[4096];
	ssize_t size;
	int fd = open(table, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return false;
	size = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (size <= 0)
		return false;
	text[size] = '\0';
	return has_listener(text);
}

uint64_t listening_look(struct listening *listening)
{
	uint64_t moment = now();

	if (is_listened("/proc/net/tcp") || is_listened("/proc/net/tcp6")) {
		give_up(listening);
		return moment;
	}
	if (moment - listening->started > PATIENCE || arm(listening) != 0)
		give_up(listening);
	return 0;
}
