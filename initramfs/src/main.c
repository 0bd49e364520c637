/* hyperstart, the first process of a HyperVM: makes the machine look like a container and runs one
 * application in it. See docs/hyperstart.md for what it is told and what it tells. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/random.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>
#include <time.h>
#include <unistd.h>

#include "channel.h"
#include "failure.h"
#include "moment.h"
#include "network.h"
#include "process.h"
#include "rootfs.h"
#include "spec.h"
#include "supervise.h"

enum { STAMPS_MAX = 48 };

struct stamp {
	const char *name;
	uint64_t nanoseconds;
};

static int set_clock(uint64_t started, struct failure *why)
{
	uint64_t moment = started + now();
	struct timespec time = {
		.tv_sec = (time_t)(moment / NANOSECONDS),
		.tv_nsec = (long)(moment % NANOSECONDS),
	};

	if (clock_settime(CLOCK_REALTIME, &time) != 0)
		return fail(why, STATUS_FAILED, "set the clock: %s", strerror(errno));
	return 0;
}

static int seed_random(const struct text *seed, struct failure *why)
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
	pool.entropy_count = (int)seed->size * 8;
	pool.buf_size = (int)seed->size;
	memcpy(pool.buf, seed->start, seed->size);
	result = ioctl(fd, RNDADDENTROPY, &pool);
	explicit_bzero(&pool, sizeof(pool));
	explicit_bzero(seed->start, seed->size);
	close(fd);
	return result == 0 ? 0 : fail(why, STATUS_FAILED, "seed the RNG: %s", strerror(errno));
}

/* What docker sets: any user may bind any port and send pings. A kernel without them is fine. */
static void set_sysctls(void)
{
	static const char *const values[][2] = {
		{"/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"},
		{"/proc/sys/net/ipv4/ping_group_range", "0 2147483647"},
	};

	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		int fd = open(values[i][0], O_WRONLY | O_CLOEXEC);
		ssize_t written = fd < 0 ? -1 : write(fd, values[i][1], strlen(values[i][1]));

		if (fd >= 0)
			close(fd);
		(void)written;
	}
}

/* What the kernel's patch boot-stamps tells: two counts, digits and a comma; else nothing. */
static const char *kernel_stamps(void)
{
	const char *told = getenv("BOOT_STAMPS");

	if (told == NULL || strlen(told) > STAMPS_MAX || told[strspn(told, "0123456789,")] != '\0')
		return "";
	return told;
}

static int say_hello(const struct spec *spec, const struct channel *channel, bool is_dax,
		     uint64_t counter_at_init)
{
	char facts[64 + STAMPS_MAX];

	snprintf(facts, sizeof(facts), "dax=%d\nrootfs=%.16s\ncounter=%" PRIu64 "\nstamps=%s\n",
		 is_dax, spec->root.type, counter_at_init, kernel_stamps());
	return send_hello(channel, facts);
}

static int prepare(const struct spec *spec, const struct channel *channel, struct stamp *stamps,
		   uint64_t counter_at_init, struct failure *why)
{
	bool is_dax;

	if (seed_random(&spec->seed, why) != 0 || set_clock(spec->clock, why) != 0)
		return -1;
	if (sethostname(spec->hostname, strlen(spec->hostname)) != 0)
		return fail(why, STATUS_FAILED, "sethostname: %s", strerror(errno));
	if (mount_root(spec, &is_dax, why) != 0 || enter_root(spec, why) != 0)
		return -1;
	stamps[1].nanoseconds = now();
	if (say_hello(spec, channel, is_dax, counter_at_init) != 0)
		return fail(why, STATUS_FAILED, "control port: %s", strerror(errno));
	if (network_up(&spec->network, why) != 0)
		return -1;
	set_sysctls();
	stamps[2].nanoseconds = now();
	for (size_t i = 0; i < 3; i++)
		send_event(channel, stamps[i].nanoseconds, stamps[i].name);
	return 0;
}

static int run(struct channel *channel, struct failure *why)
{
	static struct spec spec;
	uint64_t counter_at_init = counter();
	struct stamp stamps[] = {{"init", now()}, {"rootfs", 0}, {"network", 0}};
	struct process process;
	uint32_t status;
	int signals;

	if (mount_initial(why) != 0 || channel_open(channel, why) != 0 || spec_read(&spec, why) != 0 ||
	    prepare(&spec, channel, stamps, counter_at_init, why) != 0)
		return -1;
	signals = signals_open();
	if (signals < 0)
		return fail(why, STATUS_FAILED, "signalfd: %s", strerror(errno));
	if (process_start(&spec, &process, why) != 0)
		return -1;
	send_event(channel, process.executed, "exec");
	if (supervise(channel, &process, &spec, signals, &status, why) != 0)
		return -1;
	sync();
	send_exit(channel, status);
	return 0;
}

int main(void)
{
	struct channel channel = {-1, -1};
	struct failure why = {0};

	if (run(&channel, &why) != 0 && send_error(&channel, &why) != 0)
		dprintf(STDERR_FILENO, "hyperstart: %s\n", why.text);
	wait_for_host(&channel);
	/* With -no-reboot a reset is the quickest way out of every machine, ACPI or not. */
	reboot(RB_AUTOBOOT);
	return STATUS_FAILED;
}
