/* hyperstart, the first process of a HyperVM: makes the machine look like a container and runs one
 * application in it. See docs/hyperstart.md for what it is told and what it tells. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/reboot.h>
#include <termios.h>
#include <unistd.h>

#include "channel.h"
#include "containers.h"
#include "failure.h"
#include "identity.h"
#include "moment.h"
#include "network.h"
#include "processes.h"
#include "renew.h"
#include "rootfs.h"
#include "seed.h"
#include "spec.h"
#include "supervise.h"

enum { STAMPS_MAX = 48, STAMPS = 3 };

/* syslog(2): what is printed is of a lower level than this. */
enum { SET_CONSOLE_LEVEL = 8, LEVEL_OF_ERRORS = 4 };

struct stamp {
	const char *name;
	uint64_t nanoseconds;
};

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

static const char *facts_of(const struct spec *spec, bool is_dax, uint64_t counter_at_init)
{
	static char facts[64 + STAMPS_MAX];

	snprintf(facts, sizeof(facts), "dax=%d\nrootfs=%.16s\ncounter=%" PRIu64 "\nstamps=%s\n",
		 is_dax, spec->containers[0].root.type, counter_at_init, kernel_stamps());
	return facts;
}

static int say_hello(const struct channel *channel, const char *facts, const struct stamp *stamps,
		     struct failure *why)
{
	if (send_hello(channel, facts) != 0)
		return fail(why, STATUS_FAILED, "control port: %s", strerror(errno));
	for (size_t i = 0; i < STAMPS; i++)
		send_event(channel, stamps[i].nanoseconds, stamps[i].name);
	return 0;
}

static int prepare(struct spec *spec, struct template *template, struct stamp *stamps,
		   uint64_t counter_at_init, struct failure *why)
{
	bool is_dax;

	if ((spec->clock != 0 && set_clock(spec->clock + now(), why) != 0) ||
	    mount_identity(why) != 0)
		return -1;
	template->identity = identity_directory(why);
	if (template->identity < 0 || identity_take(spec, template->identity, why) != 0 ||
	    containers_enter(spec, &is_dax, why) != 0)
		return -1;
	template->facts = facts_of(spec, is_dax, counter_at_init);
	stamps[1].nanoseconds = now();
	if (network_up(&spec->network, why) != 0)
		return -1;
	set_sysctls();
	stamps[2].nanoseconds = now();
	return 0;
}

/* Has the application run, or all that a pod needs before the host starts anything in it. */
static int begin(struct processes *processes, uint64_t *begun, struct failure *why)
{
	if (!spec_is_pod(processes->spec)) {
		if (processes_begin(processes, begun, why) != 0)
			return -1;
		send_event(processes->channel, *begun, "exec");
		return 0;
	}
	if (processes_begin_pod(processes, why) != 0)
		return -1;
	*begun = now();
	send_ends(processes->channel);
	send_event(processes->channel, *begun, "ready");
	return 0;
}

/* A machine without a host is told more by a seed, if it has one. */
static int meet_host(struct channel *channel, bool is_alone, struct failure *why)
{
	if (!is_alone)
		return channel_open(channel, why);
	return spec_takes_seed() ? seed_take(why) : 0;
}

static int greet(struct channel *channel, struct spec *spec, const struct template *template,
		 const struct stamp *stamps, struct failure *why)
{
	if (spec->is_alone)
		return 0;
	if (spec->hold == HOLD_BEFORE_EXEC)
		return hold_and_renew(channel, spec, template, why);
	return say_hello(channel, template->facts, stamps, why);
}

static int run(struct channel *channel, bool is_alone, struct failure *why)
{
	static struct spec spec;
	uint64_t counter_at_init = counter();
	struct stamp stamps[STAMPS] = {{"init", now()}, {"rootfs", 0}, {"network", 0}};
	struct template template;
	static struct processes processes;
	uint64_t begun;
	uint32_t status;
	int signals;

	if (mount_initial(why) != 0 || meet_host(channel, is_alone, why) != 0 ||
	    spec_read(&spec, why) != 0 ||
	    prepare(&spec, &template, stamps, counter_at_init, why) != 0 ||
	    greet(channel, &spec, &template, stamps, why) != 0)
		return -1;
	if (spec.hold == HOLD_NOWHERE)
		spec_forget();
	/* From here on the kernel's errors go to the console (the boot's own are quiet): who ran out
	 * of memory, for one, is told nowhere else. */
	klogctl(SET_CONSOLE_LEVEL, NULL, LEVEL_OF_ERRORS);
	signals = signals_open();
	if (signals < 0)
		return fail(why, STATUS_FAILED, "signalfd: %s", strerror(errno));
	processes.channel = channel;
	processes.spec = &spec;
	if (begin(&processes, &begun, why) != 0 ||
	    supervise(&processes, &template, signals, begun, &status, why) != 0)
		return -1;
	sync();
	if (is_alone)
		dprintf(STDERR_FILENO, "hyperstart: the application has ended with status %u\n", status);
	send_exit(channel, status);
	return 0;
}

int main(void)
{
	struct channel channel = {-1, -1};
	struct failure why = {0};
	bool is_alone = spec_is_alone();

	if (run(&channel, is_alone, &why) != 0 && send_error(&channel, &why) != 0)
		dprintf(STDERR_FILENO, "hyperstart: %s\n", why.text);
	wait_for_host(&channel);
	if (is_alone) {
		tcdrain(STDERR_FILENO);
		reboot(RB_POWER_OFF);
	}
	/* With -no-reboot a reset is the quickest way out of every machine, ACPI or not. */
	reboot(RB_AUTOBOOT);
	return STATUS_FAILED;
}
