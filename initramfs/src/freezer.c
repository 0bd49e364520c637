#include "freezer.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define GROUP "/sys/fs/cgroup/application"

int freezer_open(void)
{
	if (mkdir(GROUP, 0755) != 0 && errno != EEXIST)
		return -1;
	return open(GROUP "/cgroup.procs", O_WRONLY | O_CLOEXEC);
}

/* Waits for the line in cgroup.events that says so; a change of the file is an exception to poll. */
static int wait_until_frozen(void)
{
	struct pollfd events = {.fd = open(GROUP "/cgroup.events", O_RDONLY | O_CLOEXEC),
				.events = POLLPRI};
	char text[256];
	ssize_t size;

	if (events.fd < 0)
		return -1;
	while ((size = pread(events.fd, text, sizeof(text) - 1, 0)) > 0) {
		text[size] = '\0';
		if (strstr(text, "frozen 1\n") != NULL)
			break;
		if (poll(&events, 1, -1) < 0 && errno != EINTR) {
			size = -1;
			break;
		}
	}
	close(events.fd);
	return size > 0 ? 0 : -1;
}

int freezer_set(bool is_frozen)
{
	int fd = open(GROUP "/cgroup.freeze", O_WRONLY | O_CLOEXEC);
	ssize_t written;

	if (fd < 0)
		return -1;
	written = write(fd, is_frozen ? "1" : "0", 1);
	close(fd);
	if (written != 1)
		return -1;
	return is_frozen ? wait_until_frozen() : 0;
}
