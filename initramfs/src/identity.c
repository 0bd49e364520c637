#include "identity.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "moment.h"

int set_clock(uint64_t moment, struct failure *why)
{
	struct timespec time = {
		.tv_sec = (time_t)(moment / NANOSECONDS),
		.tv_nsec = (long)(moment % NANOSECONDS),
	};

	if (clock_settime(CLOCK_REALTIME, &time) != 0)
		return fail(why, STATUS_FAILED, "set the clock: %s", strerror(errno));
	return 0;
}

int reseed(const void *seed, size_t size, struct failure *why)
{
	struct {
		int entropy_count;
		int buf_size;
		char buf[SEED_MAX];
	} pool;
	int fd = open("/dev/random", O_WRONLY | O_CLOEXEC);
	int result;

	if (fd < 0)
		return fail(why, STATUS_FAILED, "/dev/random: %s", strerror(errno));
	pool.entropy_count = (int)size * 8;
	pool.buf_size = (int)size;
	memcpy(pool.buf, seed, size);
	/* A generator that has its key already takes another one only when it is told to. */
	result = ioctl(fd, RNDADDENTROPY, &pool);
	if (result == 0)
		result = ioctl(fd, RNDRESEEDCRNG);
	explicit_bzero(&pool, sizeof(pool));
	close(fd);
	return result == 0 ? 0 : fail(why, STATUS_FAILED, "seed the RNG: %s", strerror(errno));
}

static int put_file(int directory, const char *name, const char *content, size_t size,
		    struct failure *why)
{
	int fd = openat(directory, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	ssize_t written = fd < 0 ? -1 : write(fd, content, size);

	if (fd >= 0)
		close(fd);
	if (written == (ssize_t)size)
		return 0;
	return fail(why, STATUS_FAILED, "write /etc/%s: %s", name,
		    written < 0 ? strerror(errno) : strerror(ENOSPC));
}

int identity_take(const struct spec *spec, int directory, struct failure *why)
{
	char line[HOSTNAME_MAX + 2];
	size_t size = (size_t)snprintf(line, sizeof(line), "%s\n", spec->hostname);

	if (reseed(spec->seed.start, spec->seed.size, why) != 0)
		return -1;
	explicit_bzero(spec->seed.start, spec->seed.size);
	if (sethostname(line, size - 1) != 0)
		return fail(why, STATUS_FAILED, "sethostname: %s", strerror(errno));
	if (put_file(directory, "hosts", spec->hosts.start, spec->hosts.size, why) != 0 ||
	    put_file(directory, "hostname", line, size, why) != 0 ||
	    put_file(directory, "machine-id", spec->machine_id.start, spec->machine_id.size, why) != 0 ||
	    put_file(directory, "resolv.conf", spec->resolv_conf.start, spec->resolv_conf.size, why) != 0)
		return -1;
	return 0;
}
