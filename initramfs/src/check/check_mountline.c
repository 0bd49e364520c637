/* The boot spec's mounts: what is taken, and what is refused. */
#include <string.h>
#include <sys/mount.h>

#include "check.h"
#include "mountline.h"

static struct mount_line lines[2];
static size_t count;

static int parse(const char *kind, const char *source, const char *path, char *options)
{
	char *strings[] = {(char *)kind, (char *)source, (char *)path, options, NULL};

	return parse_mounts(strings, lines, 2, &count);
}

static void check_kinds(void)
{
	char access[] = "ro";
	char filled[] = "fill,rw";
	char time[] = "ro,1700000000";

	CHECK(parse("9p", "share0", "/a b", access) == 0 && count == 1);
	CHECK(lines[0].kind == MOUNT_SHARE && lines[0].flags == MS_RDONLY);
	CHECK(strcmp(lines[0].source, "share0") == 0 && strcmp(lines[0].path, "/a b") == 0);
	CHECK(parse("disk", "/dev/vda", "/d", filled) == 0);
	CHECK(lines[0].kind == MOUNT_DISK && lines[0].is_filled && lines[0].flags == 0);
	CHECK(strcmp(lines[0].data, "") == 0);
	CHECK(parse("file", "file-0", "/f", time) == 0);
	CHECK(lines[0].kind == MOUNT_FILE && lines[0].modified == 1700000000);
	CHECK(parse("pod", "data", "/p", (char[]){"ro"}) == 0 && lines[0].kind == MOUNT_POD);
	CHECK(parse("volume", "-", "/v", (char[]){""}) == 0 && lines[0].kind == MOUNT_VOLUME);
}

static void check_options(void)
{
	char many[] = "nosuid,size=64m,nodev,noexec,mode=1777,noatime,ro";
	char odd[] = ",,size=1,,";

	CHECK(parse("tmpfs", "-", "/t", many) == 0 && lines[0].kind == MOUNT_MEMORY);
	CHECK(lines[0].flags == (MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME | MS_RDONLY));
	CHECK(strcmp(lines[0].data, "size=64m,mode=1777") == 0 && !lines[0].is_filled);
	CHECK(parse("tmpfs", "-", "/t", odd) == 0 && strcmp(lines[0].data, "size=1") == 0);
}

static void check_refused(void)
{
	char *none[] = {NULL};
	char *three[] = {"volume", "-", "/v", NULL};
	char *many[] = {"volume", "-", "/a", (char[]){""}, "volume", "-", "/b", (char[]){""},
			"volume", "-", "/c", (char[]){""}, NULL};

	CHECK(parse_mounts(none, lines, 2, &count) == 0 && count == 0);
	CHECK(parse_mounts(three, lines, 2, &count) != 0);
	CHECK(parse_mounts(many, lines, 2, &count) != 0);
	CHECK(parse("nfs", "x", "/x", (char[]){""}) != 0);
	CHECK(parse("9p", "x", "relative", (char[]){""}) != 0);
	CHECK(parse("pod", "a/b", "/x", (char[]){""}) != 0);
	CHECK(parse("pod", "..", "/x", (char[]){""}) != 0);
	CHECK(parse("file", "../init", "/x", (char[]){"1"}) != 0);
	CHECK(parse("file", "..", "/x", (char[]){"1"}) != 0);
	CHECK(parse("file", "file-0", "/x", (char[]){"ro"}) != 0);
	CHECK(parse("file", "file-0", "/x", (char[]){"ro,soon"}) != 0);
}

int main(void)
{
	check_kinds();
	check_options();
	check_refused();
	return 0;
}
