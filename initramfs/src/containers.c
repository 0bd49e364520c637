#include "containers.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "mounts.h"
#include "paths.h"
#include "rootfs.h"

#define TERMINALS "/terminals"
#define MEMORY "/memory"

static int open_path(const char *path, int flags, struct failure *why)
{
	int fd = open(path, flags | O_CLOEXEC);

	return fd >= 0 ? fd : fail(why, STATUS_FAILED, "open %s: %s", path, strerror(errno));
}

/* A bind mount takes what its own namespace has alone, so each container opens them anew. */
static int open_shared(struct shared *shared, struct failure *why)
{
	shared->terminals = open_path(TERMINALS, O_PATH | O_DIRECTORY, why);
	shared->memory = shared->terminals < 0 ? -1 : open_path(MEMORY, O_PATH | O_DIRECTORY, why);
	return shared->memory < 0 ? -1 : 0;
}

static void close_all(int identity, const struct shared *shared)
{
	const int fds[] = {identity, shared->terminals, shared->memory};

	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
		if (fds[i] >= 0)
			close(fds[i]);
	}
}

static int enter(const struct container *container, bool is_pod, bool *is_dax, struct failure *why)
{
	struct mount_sources sources;
	struct shared shared = {-1, -1};
	int identity;
	int result = mount_root(container, is_dax, why);

	if (result != 0)
		return -1;
	identity = identity_directory(why);
	if (identity < 0 || (is_pod && open_shared(&shared, why) != 0) ||
	    mounts_open(container, &sources, why) != 0 ||
	    enter_root(identity, &shared, why) != 0 ||
	    mounts_take(container, &sources, why) != 0)
		result = -1;
	close_all(identity, &shared);
	/* Whoever is to run there says why it can't be. */
	if (result == 0 && is_pod)
		(void)!make_directories(container->cwd);
	return result;
}

static int mount_shared(struct failure *why)
{
	unsigned long flags = MS_NOSUID | MS_NOEXEC;

	if (mount_on(TERMINALS, "devpts", flags, TERMINAL_OPTIONS, why) != 0 ||
	    mount_on(MEMORY, "tmpfs", flags | MS_NODEV, MEMORY_OPTIONS, why) != 0)
		return -1;
	return mount_on(POD_DIRECTORIES, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=75%", why);
}

static int enter_apart(struct container *container, int home, bool *is_dax, struct failure *why)
{
	if (unshare(CLONE_NEWNS) != 0)
		return fail(why, STATUS_FAILED, "a mount namespace: %s", strerror(errno));
	if (enter(container, true, is_dax, why) != 0)
		return -1;
	container->space = open_path("/proc/self/ns/mnt", O_RDONLY, why);
	if (container->space < 0)
		return -1;
	if (setns(home, CLONE_NEWNS) != 0)
		return fail(why, STATUS_FAILED, "back to the first mount namespace: %s",
			    strerror(errno));
	return 0;
}

static int enter_others(struct spec *spec, bool *are_dax, struct failure *why)
{
	int home = open_path("/proc/self/ns/mnt", O_RDONLY, why);
	int result = home < 0 ? -1 : mount_shared(why);
	bool is_dax;

	for (size_t i = 1; result == 0 && i < spec->container_count; i++) {
		result = enter_apart(&spec->containers[i], home, &is_dax, why);
		*are_dax &= result == 0 && is_dax;
	}
	if (home >= 0)
		close(home);
	return result;
}

int containers_enter(struct spec *spec, bool *is_dax, struct failure *why)
{
	bool is_pod = spec_is_pod(spec);
	bool are_dax = true;

	spec->containers[0].space = -1;
	if (is_pod && enter_others(spec, &are_dax, why) != 0)
		return -1;
	if (enter(&spec->containers[0], is_pod, is_dax, why) != 0)
		return -1;
	*is_dax &= are_dax;
	return 0;
}
