#include "spec.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "request.h"

/* Those that each container has come first. */
static const char *const names[] = {
	"environ", "cwd", "user", "rootfs", "upper", "mounts", "readonly",
	"argv", "containers", "hostname", "net", "hosts", "machine-id", "resolv.conf", "stop-signal",
	"clock", "seed", "watch", "hold", "health", "health-times", "tty",
	"alone", "environ-more",
};

enum { NAMES = sizeof(names) / sizeof(names[0]), NAMES_OF_CONTAINER = 7 };

/* What the file alone says of a machine that takes seeds. */
#define WITH_SEED "console seed\n"

/* /spec, which can be reached by this alone once the root is another. */
static int directory = -1;

/* Whether spec_put has begun the file of that name since the last spec_read. */
static bool is_begun[NAMES];

/* Arguments and environment may take 2 MiB by themselves (ARG_MAX); untouched pages cost nothing. */
static char arena[4 << 20];
static size_t arena_used;

static int open_directory(void)
{
	if (directory < 0)
		directory = open("/spec", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return directory;
}

static bool is_there(const char *name)
{
	return open_directory() >= 0 && faccessat(directory, name, F_OK, 0) == 0;
}

bool spec_is_alone(void)
{
	return is_there("alone");
}

bool spec_takes_seed(void)
{
	char content[sizeof(WITH_SEED)];
	int fd = open_directory() < 0 ? -1 : openat(directory, "alone", O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : read(fd, content, sizeof(content));

	if (fd >= 0)
		close(fd);
	return size == (ssize_t)strlen(WITH_SEED) && memcmp(content, WITH_SEED, (size_t)size) == 0;
}

static int read_text(const char *name, struct text *text, struct failure *why)
{
	int fd = openat(directory, name, O_RDONLY | O_CLOEXEC);

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

/* The name of a container's file: the first one's lie in the directory itself. Good until the next
 * call. */
static const char *file_of(size_t container, const char *name)
{
	static char path[32];

	if (container == 0)
		return name;
	snprintf(path, sizeof(path), "%zu/%s", container, name);
	return path;
}

static int malformed(size_t container, const char *name, struct failure *why)
{
	return fail(why, STATUS_FAILED, "boot spec: %s is malformed", file_of(container, name));
}

/* The environment and, of a seed, variables that are added or stand instead. */
static int read_application_environ(char **environ, struct failure *why)
{
	static char *image[STRINGS_MAX];
	static char *more[STRINGS_MAX];

	if (!is_there("environ-more"))
		return read_strings("environ", environ, why);
	if (read_strings("environ", image, why) != 0 || read_strings("environ-more", more, why) != 0)
		return -1;
	if (merge_environ(image, more, environ, STRINGS_MAX) != 0)
		return fail(why, STATUS_FAILED, "boot spec: environ has too many variables");
	return 0;
}

static int read_container(size_t number, struct container *container, struct failure *why)
{
	static char *strings[STRINGS_MAX];
	struct text cwd, user, root, upper, readonly;

	if ((number == 0 ? read_application_environ(container->environ, why)
			 : read_strings(file_of(number, "environ"), container->environ, why)) != 0 ||
	    read_strings(file_of(number, "mounts"), strings, why) != 0 ||
	    read_text(file_of(number, "cwd"), &cwd, why) != 0 ||
	    read_text(file_of(number, "user"), &user, why) != 0 ||
	    read_text(file_of(number, "rootfs"), &root, why) != 0 ||
	    read_text(file_of(number, "upper"), &upper, why) != 0 ||
	    read_text(file_of(number, "readonly"), &readonly, why) != 0)
		return -1;
	container->cwd = cwd.start;
	if (cwd.start[0] != '/' || !is_line(&cwd))
		return fail(why, STATUS_FAILED, "boot spec: %s is not an absolute path",
			    file_of(number, "cwd"));
	if (parse_user(user.start, &container->user) != 0)
		return malformed(number, "user", why);
	if (parse_root_device(root.start, &container->root) != 0)
		return malformed(number, "rootfs", why);
	container->upper.device = NULL;
	if (upper.size > 0 && parse_root_device(upper.start, &container->upper) != 0)
		return malformed(number, "upper", why);
	if (parse_mounts(strings, container->mounts, MOUNTS_MAX, &container->mount_count) != 0)
		return malformed(number, "mounts", why);
	container->is_read_only = readonly.size > 0;
	if (container->is_read_only && strcmp(readonly.start, "root\n") != 0)
		return malformed(number, "readonly", why);
	return 0;
}

static int read_containers(struct spec *spec, struct failure *why)
{
	uint64_t count;

	if (read_number("containers", CONTAINERS_MAX, &count, why) != 0)
		return -1;
	if (count == 0 || (count > 1 && !spec_is_pod(spec)))
		return malformed(0, "containers", why);
	spec->container_count = count;
	for (size_t i = 0; i < count; i++) {
		if (read_container(i, &spec->containers[i], why) != 0)
			return -1;
	}
	return 0;
}

bool spec_is_pod(const struct spec *spec)
{
	return spec->argv[0] == NULL;
}

/* What a machine that no host watches is to be; it has nobody to be copied by, and no terminal. */
static int read_alone(struct spec *spec, struct failure *why)
{
	struct text alone;

	spec->is_alone = spec_is_alone();
	if (!spec->is_alone)
		return 0;
	if (read_text("alone", &alone, why) != 0)
		return -1;
	if ((strcmp(alone.start, "console\n") != 0 && strcmp(alone.start, WITH_SEED) != 0) ||
	    spec->hold != HOLD_NOWHERE || spec->has_terminal ||
	    spec_is_pod(spec))
		return fail(why, STATUS_FAILED, "boot spec: alone is malformed");
	return 0;
}

static bool is_machine_id(const struct text *text)
{
	return text->size == MACHINE_ID_SIZE && text->start[MACHINE_ID_SIZE - 1] == '\n' &&
	       strspn(text->start, "0123456789abcdef") == MACHINE_ID_SIZE - 1;
}

static int parse_hold(const struct text *text, enum hold *hold)
{
	if (text->size == 0)
		*hold = HOLD_NOWHERE;
	else if (strcmp(text->start, "exec\n") == 0)
		*hold = HOLD_BEFORE_EXEC;
	else if (strcmp(text->start, "listening\n") == 0)
		*hold = HOLD_WHEN_LISTENING;
	else if (strcmp(text->start, "healthy\n") == 0)
		*hold = HOLD_WHEN_HEALTHY;
	else
		return -1;
	return 0;
}

int spec_read(struct spec *spec, struct failure *why)
{
	struct text hostname, network, watch, hold, times, tty;

	if (open_directory() < 0)
		return fail(why, STATUS_FAILED, "boot spec: %s", strerror(errno));
	arena_used = 0;
	memset(is_begun, 0, sizeof(is_begun));
	if (read_strings("argv", spec->argv, why) != 0 ||
	    read_containers(spec, why) != 0 ||
	    read_strings("health", spec->health, why) != 0 ||
	    read_text("health-times", &times, why) != 0 ||
	    read_text("hold", &hold, why) != 0 ||
	    read_text("tty", &tty, why) != 0 ||
	    read_text("machine-id", &spec->machine_id, why) != 0 ||
	    read_text("hostname", &hostname, why) != 0 ||
	    read_text("net", &network, why) != 0 ||
	    read_text("hosts", &spec->hosts, why) != 0 ||
	    read_text("resolv.conf", &spec->resolv_conf, why) != 0 ||
	    read_text("seed", &spec->seed, why) != 0 ||
	    read_text("watch", &watch, why) != 0 ||
	    read_number("stop-signal", 64, &spec->stop_signal, why) != 0 ||
	    read_number("clock", INT64_MAX, &spec->clock, why) != 0)
		return -1;
	spec->hostname = hostname.start;
	if (!spec_is_pod(spec) && spec->argv[0][0] == '\0')
		return fail(why, STATUS_FAILED, "boot spec: argv is empty");
	if (hostname.size == 0 || hostname.size > HOSTNAME_MAX || !is_line(&hostname))
		return fail(why, STATUS_FAILED, "boot spec: hostname is malformed");
	if ((spec->seed.size == 0 && !spec_is_alone()) || spec->seed.size > SEED_MAX)
		return fail(why, STATUS_FAILED, "boot spec: seed is not 1 to %d bytes", SEED_MAX);
	if (spec->stop_signal == 0)
		return fail(why, STATUS_FAILED, "boot spec: stop-signal is malformed");
	if (parse_network(network.start, &spec->network) != 0)
		return fail(why, STATUS_FAILED, "boot spec: net is malformed");
	spec->are_ports_watched = strcmp(watch.start, "ports\n") == 0;
	if (watch.size > 0 && strcmp(watch.start, "boot\n") != 0 && !spec->are_ports_watched)
		return fail(why, STATUS_FAILED, "boot spec: watch is malformed");
	spec->is_watched = watch.size > 0;
	if (spec->health[0] != NULL && parse_health_times(times.start, &spec->health_times) != 0)
		return fail(why, STATUS_FAILED, "boot spec: health-times is malformed");
	if (!is_machine_id(&spec->machine_id) && !(spec_is_alone() && spec->machine_id.size == 0))
		return fail(why, STATUS_FAILED, "boot spec: machine-id is malformed");
	if (parse_hold(&hold, &spec->hold) != 0)
		return fail(why, STATUS_FAILED, "boot spec: hold is malformed");
	if (spec->hold != HOLD_NOWHERE && spec_is_pod(spec))
		return fail(why, STATUS_FAILED, "boot spec: hold is not for a pod");
	spec->has_terminal = tty.size > 0;
	if (spec->has_terminal && parse_terminal_size(tty.start, &spec->terminal_size) != 0)
		return fail(why, STATUS_FAILED, "boot spec: tty is malformed");
	/* A terminal that goes on elsewhere would have to be another one. */
	if (spec->has_terminal &&
	    (spec->hold == HOLD_WHEN_LISTENING || spec->hold == HOLD_WHEN_HEALTHY))
		return fail(why, STATUS_FAILED,
			    "boot spec: tty is not for what is held while it runs");
	return read_alone(spec, why);
}

static int append(const char *name, int flags, const void *data, size_t size)
{
	int fd = openat(directory, name, O_WRONLY | O_CREAT | O_CLOEXEC | flags, 0600);
	ssize_t written;

	if (fd < 0)
		return -1;
	written = write(fd, data, size);
	close(fd);
	if (written >= 0 && written != (ssize_t)size)
		errno = ENOSPC;
	return written == (ssize_t)size ? 0 : -1;
}

int spec_put(const char *name, const void *data, size_t size, struct failure *why)
{
	for (size_t i = 0; i < NAMES; i++) {
		if (strcmp(name, names[i]) != 0)
			continue;
		if (append(name, is_begun[i] ? O_APPEND : O_TRUNC, data, size) != 0)
			return fail(why, STATUS_FAILED, "boot spec: %s: %s", name, strerror(errno));
		is_begun[i] = true;
		return 0;
	}
	return fail(why, STATUS_FAILED, "boot spec: there is no file \"%s\"", name);
}

int spec_spend_seed(struct failure *why)
{
	if (unlinkat(directory, "seed", 0) != 0)
		return fail(why, STATUS_FAILED, "boot spec: seed: %s", strerror(errno));
	return 0;
}

void spec_forget(void)
{
	char place[24];

	for (size_t i = 0; i < NAMES; i++)
		unlinkat(directory, names[i], 0);
	snprintf(place, sizeof(place), "1");
	for (size_t container = 2; faccessat(directory, place, F_OK, 0) == 0; container++) {
		for (size_t i = 0; i < NAMES_OF_CONTAINER; i++)
			unlinkat(directory, file_of(container - 1, names[i]), 0);
		unlinkat(directory, place, AT_REMOVEDIR);
		snprintf(place, sizeof(place), "%zu", container);
	}
	unlinkat(directory, "../spec", AT_REMOVEDIR);
	unlinkat(directory, "../init", 0);
}
