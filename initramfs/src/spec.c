#include "spec.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define DIRECTORY "/spec"

static const char *const names[] = {
	"argv", "environ", "cwd", "user", "rootfs", "hostname", "net",
	"hosts", "resolv.conf", "stop-signal", "clock", "seed",
	"watch",
};

/* Arguments and environment may take 2 MiB by themselves (ARG_MAX); untouched pages cost nothing. */
static char arena[4 << 20];
static size_t arena_used;

static int read_text(const char *name, struct text *text, struct failure *why)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), DIRECTORY "/%s", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return fail(why, STATUS_FAILED, "boot spec: %s: %s", name, strerror(errno));
	text->start = arena + arena_used;
	text->size = 0;
	for (;;) {
		size_t room = sizeof(arena) - arena_used - text->size - 1;
		ssize_t count = read(fd, text->start + text->size, room);

		if (count == 0 && room > 0)
			break;
		if (count <= 0) {
			int error = count < 0 ? errno : EFBIG;

			close(fd);
			return fail(why, STATUS_FAILED, "boot spec: %s: %s", name, strerror(error));
		}
		text->size += (size_t)count;
	}
	close(fd);
	text->start[text->size] = '\0';
	arena_used += text->size + 1;
	return 0;
}

static int read_number(const char *name, uint64_t limit, uint64_t *number, struct failure *why)
{
	struct text text;

	if (read_text(name, &text, why) != 0)
		return -1;
	if (parse_number(text.start, limit, number) != 0)
		return fail(why, STATUS_FAILED, "boot spec: %s is malformed", name);
	return 0;
}

static int read_strings(const char *name, char **strings, struct failure *why)
{
	struct text text;

	if (read_text(name, &text, why) != 0)
		return -1;
	if (parse_strings(text.start, text.size, strings, STRINGS_MAX) != 0)
		return fail(why, STATUS_FAILED, "boot spec: %s is malformed", name);
	return 0;
}

static bool is_line(const struct text *text)
{
	return strlen(text->start) == text->size && strchr(text->start, '\n') == NULL;
}

int spec_read(struct spec *spec, struct failure *why)
{
	struct text cwd, hostname, user, root, network, watch;

	if (read_strings("argv", spec->argv, why) != 0 ||
	    read_strings("environ", spec->environ, why) != 0 ||
	    read_text("cwd", &cwd, why) != 0 ||
	    read_text("hostname", &hostname, why) != 0 ||
	    read_text("user", &user, why) != 0 ||
	    read_text("rootfs", &root, why) != 0 ||
	    read_text("net", &network, why) != 0 ||
	    read_text("hosts", &spec->hosts, why) != 0 ||
	    read_text("resolv.conf", &spec->resolv_conf, why) != 0 ||
	    read_text("seed", &spec->seed, why) != 0 ||
	    read_text("watch", &watch, why) != 0 ||
	    read_number("stop-signal", 64, &spec->stop_signal, why) != 0 ||
	    read_number("clock", INT64_MAX, &spec->clock, why) != 0)
		return -1;
	spec->cwd = cwd.start;
	spec->hostname = hostname.start;
	if (spec->argv[0] == NULL || spec->argv[0][0] == '\0')
		return fail(why, STATUS_FAILED, "boot spec: argv is empty");
	if (spec->cwd[0] != '/' || !is_line(&cwd))
		return fail(why, STATUS_FAILED, "boot spec: cwd is not an absolute path");
	if (hostname.size == 0 || hostname.size > HOSTNAME_MAX || !is_line(&hostname))
		return fail(why, STATUS_FAILED, "boot spec: hostname is malformed");
	if (spec->seed.size == 0 || spec->seed.size > SEED_MAX)
		return fail(why, STATUS_FAILED, "boot spec: seed is not 1 to %d bytes", SEED_MAX);
	if (spec->stop_signal == 0)
		return fail(why, STATUS_FAILED, "boot spec: stop-signal is malformed");
	if (parse_user(user.start, &spec->user) != 0)
		return fail(why, STATUS_FAILED, "boot spec: user is malformed");
	if (parse_root_device(root.start, &spec->root) != 0)
		return fail(why, STATUS_FAILED, "boot spec: rootfs is malformed");
	if (parse_network(network.start, &spec->network) != 0)
		return fail(why, STATUS_FAILED, "boot spec: net is malformed");
	if (watch.size > 0 && strcmp(watch.start, "listening\n") != 0)
		return fail(why, STATUS_FAILED, "boot spec: watch is malformed");
	spec->watches_listening = watch.size > 0;
	return 0;
}

void spec_forget(void)
{
	char path[64];

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		snprintf(path, sizeof(path), DIRECTORY "/%s", names[i]);
		unlink(path);
	}
	rmdir(DIRECTORY);
	unlink("/init");
}
