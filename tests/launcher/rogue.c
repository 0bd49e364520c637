/* A guest that does what no guest should: its first argument says what. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <unistd.h>

static int port(int number)
{
	char path[32];

	snprintf(path, sizeof(path), "/dev/vport0p%d", number);
	int fd = open(path, O_RDWR);
	if (fd < 0) {
		snprintf(path, sizeof(path), "/dev/vport1p%d", number);
		fd = open(path, O_RDWR);
	}
	return fd;
}

/* Write the same again and again, to a port or the console. */
static void flood(int fd, const char *piece, size_t size)
{
	static char full[1 << 15];
	size_t length = 0;

	for (; length + size <= sizeof(full); length += size)
		memcpy(full + length, piece, size);
	for (;;)
		for (size_t done = 0; done < length;) {
			ssize_t sent = write(fd, full + done, length - done);

			done += sent > 0 ? sent : 0;
		}
}

int main(void)
{
	char what[64] = "";
	static char noise[1 << 16];
	int fd;

	mkdir("/dev", 0755);
	mount("dev", "/dev", "devtmpfs", 0, "");
	fd = open("/spec/argv", O_RDONLY);
	if (read(fd, what, sizeof(what) - 1) <= 0)
		return 1;
	memset(noise, 0xEE, sizeof(noise));
	if (!strcmp(what, "control-nonsense"))
		(void)!write(port(1), noise, 4096);
	else if (!strcmp(what, "stream-nonsense"))
		(void)!write(port(2), noise, 4096);
	else if (!strcmp(what, "old-protocol"))
		(void)!write(port(1), "\0\0\0\1\0\0\0\4\0\0\0\1", 12);
	else if (!strcmp(what, "no-dax"))
		(void)!write(port(1), "\0\0\0\1\0\0\0\12\0\0\0\5dax=0\n", 18);
	else if (!strcmp(what, "hello-nonsense"))
		(void)!write(port(1), "\0\0\0\1\0\0\0\4\0\0\0\5\0\0\0\1\0\0\0\4\0\0\0\5", 24);
	else if (!strcmp(what, "window-nonsense")) {
		int stream = port(2);

		/* One frame more than the window has room for. */
		for (int i = 0; i < 5; i++) {
			(void)!write(stream, "\0\0\0\0\0\0\0\1\0\1\0\0", 12);
			(void)!write(stream, noise, 32768);
			(void)!write(stream, noise, 32768);
		}
	} else if (!strcmp(what, "input-nonsense"))
		(void)!write(port(1), "\0\0\0\10\0\0\0\14\0\0\0\0\0\0\0\1\0\0\0\1", 20);
	else if (!strcmp(what, "process-nonsense"))
		(void)!write(port(1), "\0\0\0\5\0\0\0\4\0\0\0\7", 12);
	else if (!strcmp(what, "stranger-nonsense"))
		(void)!write(port(2), "\0\0\0\0\0\0\0\17\0\0\0\1x", 13);
	else if (!strcmp(what, "complaint"))
		puts("hyperstart: no ports, say");
	else if (!strcmp(what, "panic"))
		return 0;
	else if (!strcmp(what, "deaf"))
		(void)!write(port(1), "\0\0\0\1\0\0\0\4\0\0\0\5", 12);
	else if (!strcmp(what, "console-flood"))
		flood(open("/dev/console", O_WRONLY), "garbage\1\377\n", 10);
	else if (!strcmp(what, "control-flood"))
		flood(port(1), "\0\0\0\2\0\0\0\14\0\0\0\0\0\0\0\1exec", 20);
	else if (!strcmp(what, "stream-flood"))
		flood(port(2), "\0\0\0\0\0\0\0\1\0\0\0\4full", 16);
	else if (!strcmp(what, "flood")) {
		int console = open("/dev/console", O_WRONLY);
		for (int i = 0; i < 16; i++)
			(void)!write(console, noise, sizeof(noise));
	}
	if (!strcmp(what, "deaf") || !strcmp(what, "mute") || strstr(what, "nonsense"))
		for (;;)
			pause();
	reboot(RB_AUTOBOOT);
}
