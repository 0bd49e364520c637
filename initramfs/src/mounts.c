#include "mounts.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "copy.h"
#include "paths.h"
#include "uevent.h"

/* Milliseconds that a device may take to be announced. */
enum { DEVICE_PATIENCE = 5000 };

#define DISKS "/disks"

/* A disk's own root has lost+found in it, which an application must not find: it sees DATA. Until
 * that has all it begins with it has another name. */
#define DATA "data"
#define DRAFT "draft"

/* Nothing is kept that the host may change, but files can be mapped to be written. */
#define SHARE_OPTIONS "trans=virtio,version=9p2000.L,cache=mmap"

static int fail_at(struct failure *why, const char *step, const char *path)
{
	return fail(why, STATUS_FAILED, "%s %s: %s", step, path, strerror(errno));
}

static bool is_there(void *path)
{
	return access(path, F_OK) == 0;
}

static int open_disk(const struct mount_line *line, size_t number, struct failure *why)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), DISKS "/%zu", number);
	if (wait_for_device(is_there, (void *)line->source, DEVICE_PATIENCE) != 0)
		return fail(why, STATUS_FAILED, "%s: the VM has no such device", line->source);
	if (make_directories(path) != 0)
		return fail_at(why, "mkdir", path);
	/* The host's file shrinks again by what is deleted. */
	if (mount(line->source, path, "ext4", 0, "discard") != 0)
		return fail(why, STATUS_FAILED, "mount the volume for %s: %s", line->path,
			    strerror(errno));
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd >= 0 ? fd : fail_at(why, "open", path);
}

static int open_file(const struct mount_line *line, struct failure *why)
{
	int directory = open("/spec", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int fd = openat(directory, line->source, O_PATH | O_NOFOLLOW | O_CLOEXEC);

	if (directory >= 0)
		close(directory);
	return fd >= 0 ? fd : fail_at(why, "the file for", line->path);
}

/* Whoever comes first makes it; all may write there, whoever they are. */
static int open_pod_directory(const struct mount_line *line, struct failure *why)
{
	char path[272];
	int fd;

	snprintf(path, sizeof(path), POD_DIRECTORIES "/%s", line->source);
	if (mkdir(path, 0) == 0 && chmod(path, 0777) != 0)
		return fail_at(why, "chmod", path);
	fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return fd >= 0 ? fd : fail_at(why, "the shared directory for", line->path);
}

int mounts_open(const struct container *container, struct mount_sources *sources,
		struct failure *why)
{
	for (size_t i = 0; i < container->mount_count; i++) {
		const struct mount_line *line = &container->mounts[i];

		sources->fds[i] = -1;
		if (line->kind == MOUNT_DISK)
			sources->fds[i] = open_disk(line, i, why);
		else if (line->kind == MOUNT_FILE)
			sources->fds[i] = open_file(line, why);
		else if (line->kind == MOUNT_POD)
			sources->fds[i] = open_pod_directory(line, why);
		else
			continue;
		if (sources->fds[i] < 0)
			return -1;
	}
	return 0;
}

static bool is_empty(int directory)
{
	int fd = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *stream = fd >= 0 ? fdopendir(fd) : NULL;
	const struct dirent *entry;
	bool empty = true;

	if (stream == NULL)
		return false;
	while (empty && (entry = readdir(stream)) != NULL)
		empty = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
	closedir(stream);
	return empty;
}

static int open_directory_at(int parent, const char *name)
{
	return openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

static int fill(int directory, const struct mount_line *line)
{
	int image = open(line->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int result = image >= 0 ? copy_directory(image, directory) : -1;

	if (image >= 0)
		close(image);
	return result;
}

/* A crash leaves the new directory either whole or under its draft's name. */
static int begin_disk(int disk, const struct mount_line *line)
{
	char draft[64];
	int fd = -1;

	snprintf(draft, sizeof(draft), "/proc/self/fd/%d/" DRAFT, disk);
	if (remove_tree(draft) == 0 && mkdir(draft, 0755) == 0)
		fd = open_directory_at(disk, DRAFT);
	if (fd >= 0 && (!line->is_filled || fill(fd, line) == 0) && syncfs(fd) == 0 &&
	    renameat(disk, DRAFT, disk, DATA) == 0)
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

/* What the application sees of a disk, filled if it was empty: that may be mounted already. */
static int open_data(int disk, const struct mount_line *line)
{
	int fd = open_directory_at(disk, DATA);

	if (fd < 0)
		return errno == ENOENT ? begin_disk(disk, line) : -1;
	if (!line->is_filled || !is_empty(fd) || fill(fd, line) == 0)
		return fd;
	close(fd);
	return -1;
}

/* An overlay knows nothing of flags: they are the mount's own, set when it is there. */
static int bind(int source, const struct mount_line *line)
{
	char link[32];

	snprintf(link, sizeof(link), "/proc/self/fd/%d", source);
	if (mount(link, line->path, NULL, MS_BIND, NULL) != 0)
		return -1;
	if (line->flags == 0)
		return 0;
	return mount(NULL, line->path, NULL, MS_REMOUNT | MS_BIND | line->flags, NULL);
}

static int take_disk(int disk, const struct mount_line *line, struct failure *why)
{
	int data = open_data(disk, line);
	int result = data >= 0 ? bind(data, line) : -1;

	if (result != 0)
		fail_at(why, "mount the volume for", line->path);
	if (data >= 0)
		close(data);
	return result;
}

/* The archive that it came in was unpacked before the clock was set. */
static int set_time(int file, uint64_t seconds)
{
	const struct timespec times[2] = {{.tv_sec = (time_t)seconds}, {.tv_sec = (time_t)seconds}};
	char link[32];

	snprintf(link, sizeof(link), "/proc/self/fd/%d", file);
	return utimensat(AT_FDCWD, link, times, 0);
}

static int take_file(int file, const struct mount_line *line, struct failure *why)
{
	int target = open(line->path, O_RDONLY | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0644);

	if (target < 0 || set_time(file, line->modified) != 0)
		return fail_at(why, "mount", line->path);
	close(target);
	return bind(file, line) == 0 ? 0 : fail_at(why, "mount", line->path);
}

static int take_share(const struct mount_line *line, struct failure *why)
{
	if (mount(line->source, line->path, "9p", line->flags, SHARE_OPTIONS) == 0)
		return 0;
	return fail_at(why, "mount the shared folder for", line->path);
}

/* Mounted upon itself it is a mount of its own, which stays writable when the root is not. */
static int take_volume(const struct mount_line *line, struct failure *why)
{
	int fd = open(line->path, O_PATH | O_CLOEXEC);
	int result = fd >= 0 ? bind(fd, line) : -1;

	if (result != 0)
		fail_at(why, "mount", line->path);
	if (fd >= 0)
		close(fd);
	return result;
}

static int take(const struct mount_line *line, int source, struct failure *why)
{
	bool is_file = line->kind == MOUNT_FILE;

	if ((is_file ? make_parents(line->path) : make_directories(line->path)) != 0)
		return fail_at(why, "mkdir", line->path);
	switch (line->kind) {
	case MOUNT_DISK:
		return take_disk(source, line, why);
	case MOUNT_FILE:
		return take_file(source, line, why);
	case MOUNT_SHARE:
		return take_share(line, why);
	case MOUNT_VOLUME:
		return take_volume(line, why);
	case MOUNT_POD:
		return bind(source, line) == 0 ? 0 : fail_at(why, "mount", line->path);
	case MOUNT_MEMORY:
		break;
	}
	if (mount("tmpfs", line->path, "tmpfs", line->flags, line->data) != 0)
		return fail_at(why, "mount tmpfs on", line->path);
	return 0;
}

/* The files of /etc that are the host's choice are mounts of their own, and as read-only as the
 * root under docker. */
static int make_read_only(const struct container *container, struct failure *why)
{
	static const char *const paths[] = {
		"/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/machine-id", "/",
	};
	unsigned long flags = MS_REMOUNT | MS_BIND | MS_RDONLY;

	/* Whoever enters it says why it can't be. */
	(void)!make_directories(container->cwd);
	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		/* EINVAL: it is no mount, but a file of the image, or none at all. */
		if (mount(NULL, paths[i], NULL, flags, NULL) != 0 && errno != EINVAL &&
		    errno != ENOENT)
			return fail_at(why, "make read-only", paths[i]);
	}
	return 0;
}

int mounts_take(const struct container *container, struct mount_sources *sources,
		struct failure *why)
{
	int result = 0;

	for (size_t i = 0; i < container->mount_count; i++) {
		if (result == 0)
			result = take(&container->mounts[i], sources->fds[i], why);
		if (sources->fds[i] >= 0)
			close(sources->fds[i]);
	}
	return result == 0 && container->is_read_only ? make_read_only(container, why) : result;
}
