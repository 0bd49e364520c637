/* What the boot tests run in the guest: the first argument says what to do and tell. */
#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static int number(char **arguments)
{
	return arguments[0] ? atoi(arguments[0]) : 0;
}

static int do_exit(char **arguments)
{
	return number(arguments);
}

static int do_die(char **arguments)
{
	raise(number(arguments));
	return 0;
}

static int do_say(char **arguments)
{
	dprintf(1, "%s", arguments[0]);
	dprintf(2, "%s", arguments[1]);
	return 0;
}

static int do_argv(char **arguments)
{
	for (; *arguments; arguments++)
		dprintf(1, "[%s]", *arguments);
	return 0;
}

static int do_env(char **arguments)
{
	(void)arguments;
	for (char **variable = environ; *variable; variable++)
		dprintf(1, "[%s]", *variable);
	return 0;
}

/* Says "ready", tells each signal that comes, and leaves with status 7 on SIGTERM. */
static int do_listen(char **arguments)
{
	sigset_t all;
	int got;

	(void)arguments;
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	dprintf(1, "ready\n");
	while (sigwait(&all, &got) == 0 && got != SIGTERM)
		dprintf(1, "signal %d\n", got);
	return 7;
}

/* Says "ready" and ignores the stop signal. */
static int do_ignore(char **arguments)
{
	(void)arguments;
	signal(SIGTERM, SIG_IGN);
	dprintf(1, "ready\n");
	while (pause() < 0)
		continue;
	return 0;
}

/* Writes that many bytes; byte i is (i * 31 + i / 4096) mod 256. */
static int do_pour(char **arguments)
{
	static uint8_t block[4096];
	size_t size = (size_t)number(arguments);

	for (size_t at = 0; at < size;) {
		size_t length = size - at < sizeof block ? size - at : sizeof block;

		for (size_t i = 0; i < length; i++)
			block[i] = (uint8_t)((at + i) * 31 + (at + i) / 4096);
		for (size_t done = 0; done < length;) {
			ssize_t wrote = write(1, block + done, length - done);

			if (wrote < 0)
				return 1;
			done += (size_t)wrote;
		}
		at += length;
	}
	return 0;
}

static int do_cat(char **arguments)
{
	static char block[65536];
	ssize_t got;

	(void)arguments;
	while ((got = read(0, block, sizeof block)) > 0)
		if (write(1, block, (size_t)got) != got)
			return 1;
	return got < 0;
}

static int count_zombies(void)
{
	DIR *processes = opendir("/proc");
	struct dirent *entry;
	int zombies = 0;

	while (processes && (entry = readdir(processes))) {
		char path[300], text[512] = "";
		char *state;
		int fd;

		snprintf(path, sizeof path, "/proc/%s/stat", entry->d_name);
		fd = open(path, O_RDONLY);
		if (fd < 0)
			continue;
		if (read(fd, text, sizeof text - 1) > 0 && (state = strrchr(text, ')')))
			zombies += state[2] == 'Z';
		close(fd);
	}
	if (processes)
		closedir(processes);
	return zombies;
}

/* Leaves that many orphans, which end at once, and waits until somebody has reaped them. */
static int do_orphans(char **arguments)
{
	for (int left = number(arguments); left > 0; left--) {
		pid_t child = fork();

		if (child == 0) {
			if (fork() == 0)
				_exit(0);
			_exit(0);
		}
		waitpid(child, NULL, 0);
	}
	while (count_zombies() > 0)
		usleep(1000);
	dprintf(1, "no zombies\n");
	return 0;
}

/* Ends with a child left that holds standard output and ignores what can be ignored. */
static int do_leave(char **arguments)
{
	if (fork() == 0) {
		setsid();
		for (int signal_number = 1; signal_number < 32; signal_number++)
			signal(signal_number, SIG_IGN);
		dprintf(1, "child\n");
		while (pause() < 0)
			continue;
	}
	usleep(20000);
	return number(arguments);
}

static int do_whoami(char **arguments)
{
	gid_t groups[64];
	char cwd[4096], host[65] = "";
	int count = getgroups(64, groups);
	struct rlimit files;
	mode_t mask = umask(0);

	(void)arguments;
	getrlimit(RLIMIT_NOFILE, &files);
	gethostname(host, sizeof host - 1);
	dprintf(1, "uid %u %u gid %u %u groups", getuid(), geteuid(), getgid(), getegid());
	for (int i = 0; i < count; i++)
		dprintf(1, " %u", groups[i]);
	dprintf(1, "\ncwd %s\numask %03o\nleader %d\nfiles %llu %llu\nhostname %s\n",
		getcwd(cwd, sizeof cwd) ? cwd : "?", (unsigned)mask, getsid(0) == getpid(),
		(unsigned long long)files.rlim_cur, (unsigned long long)files.rlim_max, host);
	return 0;
}

/* Prints the files, one after the other. */
static int do_files(char **arguments)
{
	for (; *arguments; arguments++) {
		char block[4096];
		int fd = open(*arguments, O_RDONLY);
		ssize_t got;

		if (fd < 0)
			return 1;
		while ((got = read(fd, block, sizeof block)) > 0)
			if (write(1, block, (size_t)got) != got)
				return 1;
		close(fd);
	}
	return 0;
}

/* Prints mode, owner and link target or nothing of each path. */
static int do_stat(char **arguments)
{
	for (; *arguments; arguments++) {
		char target[256] = "";
		struct stat status;

		if (lstat(*arguments, &status) < 0)
			return 1;
		if (readlink(*arguments, target, sizeof target - 1) < 0)
			*target = '\0';
		dprintf(1, "%s %o %u:%u %s\n", *arguments, (unsigned)status.st_mode, status.st_uid,
			status.st_gid, target);
	}
	return 0;
}

static int do_fds(char **arguments)
{
	(void)arguments;
	for (int fd = 0; fd < 64; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			dprintf(1, "%d ", fd);
	return 0;
}

/* Opens /dev/stdout and /dev/stderr anew, as log files that link there are opened. */
static int do_reopen(char **arguments)
{
	int out = open("/dev/stdout", O_WRONLY | O_APPEND), err = open("/dev/stderr", O_WRONLY);

	(void)arguments;
	if (out < 0 || err < 0)
		return 1;
	dprintf(out, "out");
	dprintf(err, "err");
	return 0;
}

static int do_clock(char **arguments)
{
	uint8_t random[8];

	(void)arguments;
	dprintf(1, "%lld %zd", (long long)time(NULL), getrandom(random, sizeof random, GRND_NONBLOCK));
	return 0;
}

/* Connects to ADDRESS PORT and prints what comes. */
static int do_fetch(char **arguments)
{
	struct sockaddr_in peer = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(arguments[1]))};
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	char block[256];
	ssize_t got;

	if (inet_pton(AF_INET, arguments[0], &peer.sin_addr) != 1 ||
	    connect(fd, (struct sockaddr *)&peer, sizeof peer) < 0)
		return 1;
	while ((got = read(fd, block, sizeof block)) > 0)
		if (write(1, block, (size_t)got) != got)
			return 1;
	return 0;
}

/* Closes standard input, says so and waits for SIGTERM. */
static int do_deaf(char **arguments)
{
	close(0);
	return do_listen(arguments);
}

/* After so many milliseconds makes the file, which SIGUSR1 takes away; leaves on SIGTERM. */
static int do_bloom(char **arguments)
{
	sigset_t all;
	int got;

	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	usleep((useconds_t)number(arguments) * 1000);
	close(open(arguments[1], O_WRONLY | O_CREAT, 0644));
	while (sigwait(&all, &got) == 0 && got != SIGTERM)
		unlink(arguments[1]);
	return 7;
}

/* Listens on one port after the other; -N is port N of the loopback alone. */
static int do_serve(char **arguments)
{
	for (; *arguments != NULL; arguments++) {
		int port = atoi(*arguments);
		struct sockaddr_in at = {
			.sin_family = AF_INET,
			.sin_port = htons((uint16_t)abs(port)),
			.sin_addr.s_addr = htonl(port < 0 ? INADDR_LOOPBACK : INADDR_ANY),
		};
		int fd = socket(AF_INET, SOCK_STREAM, 0);

		if (bind(fd, (struct sockaddr *)&at, sizeof at) < 0 || listen(fd, 1) < 0)
			return 1;
		usleep(100000);
	}
	for (;;)
		pause();
}

/* Listens on port 80 and says its host name all the time. */
static int do_tick(char **arguments)
{
	struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(80)};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	(void)arguments;
	if (bind(fd, (struct sockaddr *)&any, sizeof any) < 0 || listen(fd, 1) < 0)
		return 1;
	for (;;) {
		char host[65] = "";

		gethostname(host, sizeof host - 1);
		dprintf(1, "%s\n", host);
		usleep(1000);
	}
}

static volatile sig_atomic_t is_resized = 1;

static void note_size(int signal_number)
{
	(void)signal_number;
	is_resized = 1;
}

/* Tells whose terminal it has, and its size whenever that changes. */
static int do_terminal(char **arguments)
{
	int controlling = open("/dev/tty", O_RDWR);
	struct stat status;
	sigset_t resized, none;

	(void)arguments;
	sigemptyset(&none);
	sigemptyset(&resized);
	sigaddset(&resized, SIGWINCH);
	sigprocmask(SIG_BLOCK, &resized, NULL);
	signal(SIGWINCH, note_size);
	if (fstat(0, &status) < 0)
		return 1;
	dprintf(1, "owner %u controlling %d\n", status.st_uid, controlling >= 0);
	for (;; sigsuspend(&none)) {
		struct winsize size;

		if (!is_resized || ioctl(0, TIOCGWINSZ, &size) < 0)
			continue;
		is_resized = 0;
		dprintf(1, "%u %u\n", size.ws_row, size.ws_col);
	}
}

static const struct {
	const char *name;
	int (*run)(char **arguments);
} actions[] = {
	{"exit", do_exit},       {"die", do_die},       {"say", do_say},
	{"argv", do_argv},       {"env", do_env},       {"listen", do_listen},
	{"ignore", do_ignore},   {"pour", do_pour},     {"cat", do_cat},
	{"orphans", do_orphans}, {"leave", do_leave},   {"whoami", do_whoami},
	{"files", do_files},     {"stat", do_stat},     {"fds", do_fds},
	{"reopen", do_reopen},   {"clock", do_clock},   {"fetch", do_fetch},
	{"deaf", do_deaf},       {"bloom", do_bloom},   {"tick", do_tick},
	{"serve", do_serve},     {"terminal", do_terminal},
};

int main(int count, char **arguments)
{
	for (size_t i = 0; count > 1 && i < sizeof actions / sizeof *actions; i++)
		if (strcmp(arguments[1], actions[i].name) == 0)
			return actions[i].run(arguments + 2);
	return 99;
}
