#include "finding.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Where a file system's UUID lies: its superblock is 1024 bytes in (fs/erofs/erofs_fs.h,
 * fs/ext4/ext4.h). */
enum { EROFS_UUID = 1024 + 48, EXT4_UUID = 1024 + 104 };

/* The primary volume descriptor (ECMA-119, 8.4): the 16th sector of 2048 bytes. */
enum { DESCRIPTOR = 16 * 2048, DESCRIPTOR_SIZE = 72, VOLUME_NAME = 40, VOLUME_NAME_SIZE = 32 };

static bool has_uuid(int fd, const void *wanted)
{
	const struct root_device *root = wanted;
	off_t place = strcmp(root->type, "erofs") == 0 ? EROFS_UUID : EXT4_UUID;
	uint8_t uuid[UUID_SIZE];

	return pread(fd, uuid, sizeof(uuid), place) == (ssize_t)sizeof(uuid) &&
	       memcmp(uuid, root->uuid, sizeof(uuid)) == 0;
}

static bool is_volume(int fd, const void *wanted)
{
	char descriptor[DESCRIPTOR_SIZE];
	char name[VOLUME_NAME_SIZE + 1];

	/* Shorter names have spaces behind them. */
	snprintf(name, sizeof(name), "%-*s", VOLUME_NAME_SIZE, (const char *)wanted);
	return pread(fd, descriptor, sizeof(descriptor), DESCRIPTOR) == (ssize_t)sizeof(descriptor) &&
	       memcmp(descriptor, "\1CD001", 6) == 0 &&
	       memcmp(descriptor + VOLUME_NAME, name, VOLUME_NAME_SIZE) == 0;
}

static bool find(bool (*is_it)(int fd, const void *wanted), const void *wanted, char *device)
{
	struct dirent *entry;
	bool is_found = false;
	DIR *directory = opendir("/sys/class/block");

	if (directory == NULL)
		return false;
	while (!is_found && (entry = readdir(directory)) != NULL) {
		int fd;

		if (entry->d_name[0] == '.')
			continue;
		snprintf(device, DEVICE_PATH_MAX, "/dev/%.40s", entry->d_name);
		/* A drive without a disc is not waited for. */
		fd = open(device, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
		if (fd < 0)
			continue;
		is_found = is_it(fd, wanted);
		close(fd);
	}
	closedir(directory);
	return is_found;
}

bool find_volume(const char *name, char device[DEVICE_PATH_MAX])
{
	return find(is_volume, name, device);
}

bool find_root(const struct root_device *root, char device[DEVICE_PATH_MAX])
{
	if (root->place == BY_UUID)
		return find(has_uuid, root, device);
	if (root->place == ON_VOLUME)
		return find_volume(root->device, device);
	snprintf(device, DEVICE_PATH_MAX, "%s", root->device);
	return access(device, F_OK) == 0;
}
