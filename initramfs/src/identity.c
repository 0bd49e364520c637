#include "identity.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
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

/* 32 digits, as the host would have drawn them. */
static int draw_machine_id(char *id, struct failure *why)
{
	uint8_t bytes[(MACHINE_ID_SIZE - 1) / 2];

	if (getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes))
		return fail(why, STATUS_FAILED, "draw the machine-id: %s", strerror(errno));
	for (size_t i = 0; i < sizeof(bytes); i++)
		snprintf(id + 2 * i, 3, "%02x", bytes[i]);
	id[MACHINE_ID_SIZE - 1] = '\n';
	return 0;
}

static int put_machine_id(const struct text *given, int directory, struct failure *why)
{
	char drawn[MACHINE_ID_SIZE];

	if (given->size > 0)
		return put_file(directory, "machine-id", given->start, given->size, why);
	if (draw_machine_id(drawn, why) != 0)
		return -1;
	return put_file(directory, "machine-id", drawn, sizeof(drawn), why);
}

/* Name servers as given, else as DHCP has told them. */
static int put_resolvers(const struct spec *spec, int directory, struct failure *why)
{
	static char told[8192];
	static char picked[sizeof(told)];
	ssize_t size;
	int fd;

	if (spec->resolv_conf.size > 0 || !spec->network.is_dhcp)
		return put_file(directory, "resolv.conf", spec->resolv_conf.start,
				spec->resolv_conf.size, why);
	fd = open("/proc/net/pnp", O_RDONLY | O_CLOEXEC);
	size = fd < 0 ? 0 : read(fd, told, sizeof(told) - 1);
	if (fd >= 0)
		close(fd);
	told[size < 0 ? 0 : size] = '\0';
	return put_file(directory, "resolv.conf", picked,
			pick_resolvers(told, picked, sizeof(picked)), why);
}

int identity_take(const struct spec *spec, int directory, struct failure *why)
{
	char line[HOSTNAME_MAX + 2];
	size_t size = (size_t)snprintf(line, sizeof(line), "%s\n", spec->hostname);

	if (spec->seed.size > 0 && reseed(spec->seed.start, spec->seed.size, why) != 0)
		return -1;
	explicit_bzero(spec->seed.start, spec->seed.size);
	if (sethostname(line, size - 1) != 0)
		return fail(why, STATUS_FAILED, "sethostname: %s", strerror(errno));
	if (put_file(directory, "hosts", spec->hosts.start, spec->hosts.size, why) != 0 ||
	    put_file(directory, "hostname", line, size, why) != 0 ||
	    put_machine_id(&spec->machine_id, directory, why) != 0 ||
	    put_resolvers(spec, directory, why) != 0)
		return -1;
	return 0;
}
