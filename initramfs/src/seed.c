#include "seed.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "finding.h"
#include "spec.h"

#define SEED "/seed"

static const char *const volumes[] = {"cidata", "config-2"};

/* Files of the seed, and those of the boot spec that they become. */
static const struct {
	const char *path;
	const char *name;
} parts[] = {
	{SEED "/hyperstart/environ", "environ-more"},
	{SEED "/hyperstart/hostname", "hostname"},
	{SEED "/hyperstart/hosts", "hosts"},
	{SEED "/hyperstart/resolv.conf", "resolv.conf"},
};

static int take_part(const char *path, const char *name, struct failure *why)
{
	static char piece[65536];
	ssize_t count;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return errno == ENOENT ? 0 : fail(why, STATUS_FAILED, "seed: %s: %s", path,
						  strerror(errno));
	while ((count = read(fd, piece, sizeof(piece))) > 0) {
		if (spec_put(name, piece, (size_t)count, why) != 0) {
			close(fd);
			return -1;
		}
	}
	close(fd);
	return count == 0 ? 0 : fail(why, STATUS_FAILED, "seed: %s: %s", path, strerror(errno));
}

int seed_take(struct failure *why)
{
	static const unsigned long flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;
	char device[DEVICE_PATH_MAX];
	size_t volume = 0;
	int result = 0;

	while (volume < sizeof(volumes) / sizeof(volumes[0]) &&
	       !find_volume(volumes[volume], device))
		volume++;
	if (volume == sizeof(volumes) / sizeof(volumes[0]))
		return 0;
	if ((mkdir(SEED, 0755) != 0 && errno != EEXIST) ||
	    mount(device, SEED, "iso9660", flags, NULL) != 0)
		return fail(why, STATUS_FAILED, "mount the seed %s: %s", device, strerror(errno));
	for (size_t i = 0; result == 0 && i < sizeof(parts) / sizeof(parts[0]); i++)
		result = take_part(parts[i].path, parts[i].name, why);
	umount(SEED);
	return result;
}
