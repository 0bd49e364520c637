#include "listening.h"

#include <fcntl.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "moment.h"

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

int listening_start(struct listening *listening, uint64_t started, bool is_for_all)
{
	*listening = (struct listening){.started = started, .is_for_all = is_for_all};
	listening->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	return listening->timer < 0 ? -1 : arm(listening);
}

static void note(struct listening *listening, const struct listener *found)
{
	for (size_t i = 0; i < listening->known; i++) {
		const struct listener *known = &listening->listeners[i];

		if (known->port == found->port && known->is_loopback == found->is_loopback)
			return;
	}
	if (listening->known < LISTENERS_MAX)
		listening->listeners[listening->known++] = *found;
}

/* Listeners come first in these tables, so the beginning has them. */
static void read_table(struct listening *listening, const char *table)
{
	struct listener found;
	const char *rest;
	char text[4096];
	ssize_t size;
	int fd = open(table, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	size = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (size <= 0)
		return;
	text[size] = '\0';
	for (rest = text; (rest = next_listener(rest, &found)) != NULL;)
		note(listening, &found);
}

size_t listening_look(struct listening *listening)
{
	size_t before = listening->known;

	read_table(listening, "/proc/net/tcp");
	read_table(listening, "/proc/net/tcp6");
	if ((listening->known > 0 && !listening->is_for_all) ||
	    now() - listening->started > PATIENCE || arm(listening) != 0)
		give_up(listening);
	return listening->known - before;
}
