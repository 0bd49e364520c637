#include "uevent.h"

#include <errno.h>
#include <linux/netlink.h>
#include <poll.h>
#include <stdint.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int64_t milliseconds_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int wait_on(int fd, bool (*is_ready)(void *), void *subject, int64_t deadline)
{
	while (!is_ready(subject)) {
		struct pollfd watched = {.fd = fd, .events = POLLIN};
		int64_t left = deadline - milliseconds_now();
		char event[8192];

		if (left <= 0 || poll(&watched, 1, (int)left) == 0) {
			errno = ETIMEDOUT;
			return -1;
		}
		/* What has changed is looked up; an overrun is one more reason to look. */
		while (recv(fd, event, sizeof(event), MSG_DONTWAIT) > 0)
			;
	}
	return 0;
}

int wait_for_device(bool (*is_ready)(void *subject), void *subject, int milliseconds)
{
	struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = 1};
	int result = -1;
	int fd;

	if (is_ready(subject))
		return 0;
	fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT);
	if (fd < 0)
		return -1;
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		result = wait_on(fd, is_ready, subject, milliseconds_now() + milliseconds);
	close(fd);
	return result;
}
