#include "rootfs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <linux/stat.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "finding.h"
#include "uevent.h"

#ifndef STATX_ATTR_DAX
#define STATX_ATTR_DAX 0x00200000
#endif

/* Milliseconds that a device may take to be announced. */
enum { DEVICE_PATIENCE = 5000, DISK_PATIENCE = 10000 };

#define LOWER "/lower"
#define UPPER "/upper"
#define FILES "/files"
#define MERGED "/root"
#define DISC "/disc"

enum { DAX_SEARCH_DEPTH = 3, DAX_SEARCH_ENTRIES = 4096 };

struct mount_point {
	const char *path;
	const char *type;
	unsigned long flags;
	const char *options;
};

static const struct mount_point initial[] = {
	{"/dev", "devtmpfs", MS_NOSUID, NULL},
	{"/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
	{"/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
};

static const struct mount_point within[] = {
	{"/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
	{"/dev", "devtmpfs", MS_NOSUID, NULL},
	{"/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
	{"/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
	{"/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, TERMINAL_OPTIONS},
	{"/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, MEMORY_OPTIONS},
	{"/dev/mqueue", "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
};

static const struct {
	const char *path;
	const char *target;
} device_links[] = {
	{"/dev/fd", "/proc/self/fd"},
	{"/dev/stdin", "/proc/self/fd/0"},
	{"/dev/stdout", "/proc/self/fd/1"},
	{"/dev/stderr", "/proc/self/fd/2"},
};

int mount_on(const char *path, const char *type, unsigned long flags, const char *options,
	     struct failure *why)
{
	if (mkdir(path, 0755) != 0 && errno != EEXIST)
		return fail(why, STATUS_FAILED, "mkdir %s: %s", path, strerror(errno));
	if (mount(type, path, type, flags, options) != 0)
		return fail(why, STATUS_FAILED, "mount %s: %s", path, strerror(errno));
	return 0;
}

static int mount_at(const struct mount_point *point, struct failure *why)
{
	return mount_on(point->path, point->type, point->flags, point->options, why);
}

int mount_initial(struct failure *why)
{
	for (size_t i = 0; i < sizeof(initial) / sizeof(initial[0]); i++) {
		if (mount_at(&initial[i], why) != 0)
			return -1;
	}
	return 0;
}

/* 1: path is a regular file with data and is mapped; 0: it is one and is not; -1: it is none. */
static int file_is_dax(int directory, const char *path)
{
	struct statx info;

	if (syscall(SYS_statx, directory, path, AT_SYMLINK_NOFOLLOW, STATX_TYPE | STATX_SIZE,
		    &info) != 0)
		return -1;
	if (!S_ISREG(info.stx_mode) || info.stx_size == 0)
		return -1;
	return (info.stx_attributes & STATX_ATTR_DAX) != 0;
}

static int find_dax(int directory, int depth, int *left)
{
	struct dirent *entry;
	int found = -1;
	DIR *stream = fdopendir(directory);

	if (stream == NULL) {
		close(directory);
		return -1;
	}
	while (found < 0 && *left > 0 && (entry = readdir(stream)) != NULL) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		--*left;
		found = file_is_dax(dirfd(stream), entry->d_name);
		if (found < 0 && depth > 1 && entry->d_type == DT_DIR) {
			int inner = openat(dirfd(stream), entry->d_name,
					   O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

			if (inner >= 0)
				found = find_dax(inner, depth - 1, left);
		}
	}
	closedir(stream);
	return found;
}

static bool root_is_dax(void)
{
	int left = DAX_SEARCH_ENTRIES;
	int directory;
	int found = file_is_dax(AT_FDCWD, LOWER "/etc/passwd");

	if (found >= 0)
		return found;
	directory = open(LOWER, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return directory >= 0 && find_dax(directory, DAX_SEARCH_DEPTH, &left) == 1;
}

/* libnvdimm probes in threads that the kernel does not wait for before it starts us. A read of
 * wait_probe returns when the bus is done (drivers/nvdimm/core.c). */
static void wait_for_pmem(void)
{
	char path[64];
	char answer[8];
	int fd;

	for (int bus = 0;; bus++) {
		snprintf(path, sizeof(path), "/sys/bus/nd/devices/ndbus%d/wait_probe", bus);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			return;
		(void)!read(fd, answer, sizeof(answer));
		close(fd);
	}
}

/* A device that is named, and its path once it is there. */
struct sought {
	const struct root_device *root;
	char path[DEVICE_PATH_MAX];
};

static bool is_found(void *subject)
{
	struct sought *sought = subject;

	return find_root(sought->root, sought->path);
}

static int find_device(const struct root_device *root, struct sought *sought, struct failure *why)
{
	/* Controllers of real-looking disks take their time. */
	int patience = root->place == AT_PATH ? DEVICE_PATIENCE : DISK_PATIENCE;

	sought->root = root;
	if (wait_for_device(is_found, sought, patience) == 0)
		return 0;
	if (root->place == BY_UUID)
		return fail(why, STATUS_FAILED, "no disk has the root file system (%s)", root->type);
	if (root->place == ON_VOLUME)
		return fail(why, STATUS_FAILED, "no drive has the disc %s", root->device);
	return fail(why, STATUS_FAILED, "%s: the VM has no such device", root->device);
}

/* The root file system of a disc is a file there; *device becomes the block device of it. */
static int open_disc(const char *type, char *device, struct failure *why)
{
	static const char *const loop = "/dev/loop0";
	struct loop_config config = {.info.lo_flags = LO_FLAGS_READ_ONLY};
	char path[64];
	int fd = -1;
	int result;

	snprintf(path, sizeof(path), DISC "/rootfs.%.16s", type);
	if ((mkdir(DISC, 0755) != 0 && errno != EEXIST) ||
	    mount(device, DISC, "iso9660", MS_RDONLY, NULL) != 0)
		return fail(why, STATUS_FAILED, "mount the disc %s: %s", device, strerror(errno));
	config.fd = (uint32_t)open(path, O_RDONLY | O_CLOEXEC);
	if ((int)config.fd < 0)
		return fail(why, STATUS_FAILED, "%s: %s", path, strerror(errno));
	fd = open(loop, O_RDONLY | O_CLOEXEC);
	result = fd < 0 ? -1 : ioctl(fd, LOOP_CONFIGURE, &config);
	if (result != 0)
		fail(why, STATUS_FAILED, "%s: %s", loop, strerror(errno));
	if (fd >= 0)
		close(fd);
	close((int)config.fd);
	snprintf(device, DEVICE_PATH_MAX, "%s", loop);
	return result;
}

static int mount_lower(const struct root_device *root, struct failure *why)
{
	struct sought sought;

	if (root->place == AT_PATH && strncmp(root->device, "/dev/pmem", strlen("/dev/pmem")) == 0)
		wait_for_pmem();
	if (find_device(root, &sought, why) != 0)
		return -1;
	if (root->place == ON_VOLUME && open_disc(root->type, sought.path, why) != 0)
		return -1;
	if (root->dax && mount(sought.path, LOWER, root->type, MS_RDONLY, "dax=always") == 0)
		return 0;
	if (mount(sought.path, LOWER, root->type, MS_RDONLY, NULL) == 0)
		return 0;
	return fail(why, STATUS_FAILED, "mount %s (%s): %s", sought.path, root->type,
		    strerror(errno));
}

/* What is written goes into memory, unless it is to stay. */
static int mount_upper(const struct root_device *disk, struct failure *why)
{
	struct sought sought;

	if (disk->device == NULL) {
		if (mount("tmpfs", UPPER, "tmpfs", 0, "mode=0755,size=75%") != 0)
			return fail(why, STATUS_FAILED, "mount tmpfs: %s", strerror(errno));
		return 0;
	}
	if (find_device(disk, &sought, why) != 0)
		return -1;
	/* The host's file shrinks again by what is deleted. */
	if (mount(sought.path, UPPER, disk->type, 0, "discard") != 0)
		return fail(why, STATUS_FAILED, "mount the disk %s (%s): %s", sought.path,
			    disk->type, strerror(errno));
	return 0;
}

/* An overlay shows its upper root directory: it must look like the image's from the first time on,
 * and then as the application has made it. */
static int make_upper_root(void)
{
	static const char *const draft = UPPER "/draft";
	struct stat lower;
	struct timespec times[2];

	if (access(UPPER "/upper", F_OK) == 0)
		return 0;
	if ((mkdir(draft, 0755) != 0 && errno != EEXIST) || stat(LOWER, &lower) != 0 ||
	    chown(draft, lower.st_uid, lower.st_gid) != 0 ||
	    chmod(draft, lower.st_mode & 07777) != 0)
		return -1;
	times[0] = lower.st_mtim;
	times[1] = lower.st_mtim;
	return utimensat(AT_FDCWD, draft, times, 0) != 0 ? -1 : rename(draft, UPPER "/upper");
}

static int mount_overlay(void)
{
	if (make_upper_root() != 0 || (mkdir(UPPER "/work", 0755) != 0 && errno != EEXIST))
		return -1;
	return mount("overlay", MERGED, "overlay", 0,
		     "lowerdir=" LOWER ",upperdir=" UPPER "/upper,workdir=" UPPER "/work");
}

int mount_identity(struct failure *why)
{
	return mount_on(FILES, "tmpfs", 0, "mode=0755,size=16m", why);
}

int mount_root(const struct container *container, bool *is_dax, struct failure *why)
{
	static const char *const directories[] = {LOWER, UPPER, MERGED};

	for (size_t i = 0; i < sizeof(directories) / sizeof(directories[0]); i++) {
		if (mkdir(directories[i], 0755) != 0 && errno != EEXIST)
			return fail(why, STATUS_FAILED, "mkdir %s: %s", directories[i],
				    strerror(errno));
	}
	if (mount_lower(&container->root, why) != 0)
		return -1;
	*is_dax = root_is_dax();
	if (mount_upper(&container->upper, why) != 0)
		return -1;
	if (mount_overlay() != 0)
		return fail(why, STATUS_FAILED, "mount the overlay: %s", strerror(errno));
	return 0;
}

int identity_directory(struct failure *why)
{
	int fd = open(FILES, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd >= 0 ? fd : fail(why, STATUS_FAILED, "%s: %s", FILES, strerror(errno));
}

/* Makes sure that there is a file to mount over: a dangling symlink gives way. */
static int make_target(const char *path)
{
	int fd = open(path, O_RDONLY | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0644);

	if (fd < 0 && unlink(path) == 0)
		fd = open(path, O_RDONLY | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0644);
	if (fd < 0)
		return -1;
	return close(fd);
}

static int bind_file(int directory, const char *name, struct failure *why)
{
	char link[32];
	char path[64];
	int source = openat(directory, name, O_PATH | O_CLOEXEC);
	int result;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", source);
	snprintf(path, sizeof(path), "/etc/%s", name);
	if (source < 0)
		return fail(why, STATUS_FAILED, "mount %s: %s", path, strerror(errno));
	result = make_target(path);
	if (result == 0)
		result = mount(link, path, NULL, MS_BIND, NULL);
	if (result != 0)
		fail(why, STATUS_FAILED, "mount %s: %s", path, strerror(errno));
	close(source);
	return result;
}

static int bind_directory(int source, const char *path, struct failure *why)
{
	char link[32];

	snprintf(link, sizeof(link), "/proc/self/fd/%d", source);
	if ((mkdir(path, 0755) != 0 && errno != EEXIST) ||
	    mount(link, path, NULL, MS_BIND, NULL) != 0)
		return fail(why, STATUS_FAILED, "mount %s: %s", path, strerror(errno));
	return 0;
}

static int mount_within(const struct shared *shared, struct failure *why)
{
	for (size_t i = 0; i < sizeof(within) / sizeof(within[0]); i++) {
		const struct mount_point *point = &within[i];
		int source = -1;

		if (strcmp(point->path, "/dev/pts") == 0)
			source = shared->terminals;
		else if (strcmp(point->path, "/dev/shm") == 0)
			source = shared->memory;
		if ((source >= 0 ? bind_directory(source, point->path, why)
				 : mount_at(point, why)) != 0)
			return -1;
	}
	for (size_t i = 0; i < sizeof(device_links) / sizeof(device_links[0]); i++) {
		if (symlink(device_links[i].target, device_links[i].path) != 0 && errno != EEXIST)
			return fail(why, STATUS_FAILED, "symlink %s: %s", device_links[i].path,
				    strerror(errno));
	}
	return 0;
}

int enter_root(int identity, const struct shared *shared, struct failure *why)
{
	static const char *const files[] = {"hosts", "hostname", "resolv.conf"};
	struct stat status;

	/* From here on every path, symlinks of the image included, resolves inside it. */
	if (chdir(MERGED) != 0 || mount(".", "/", NULL, MS_MOVE, NULL) != 0 || chroot(".") != 0 ||
	    chdir("/") != 0)
		return fail(why, STATUS_FAILED, "switch to the root: %s", strerror(errno));
	if (mount_within(shared, why) != 0)
		return -1;
	if (mkdir("/etc", 0755) != 0 && errno != EEXIST)
		return fail(why, STATUS_FAILED, "mkdir /etc: %s", strerror(errno));
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		if (bind_file(identity, files[i], why) != 0)
			return -1;
	}
	/* No container runtime makes one, but an image that has one means a machine's own. */
	if (lstat("/etc/machine-id", &status) == 0)
		return bind_file(identity, "machine-id", why);
	return 0;
}
