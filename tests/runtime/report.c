/* Tells what an application finds around itself, one `name = value` a line; whatever is no printable
 * ASCII is written as \xNN. What is the machine's own (times, pids) is not told.
 *
 *     report [WORD...]         tell, with the words as they came
 *     report-volumes PATH...   the same, and of these directories
 *     report-wait              say ready, tell which signal comes, end with status 40
 *     report-die NUMBER        raise the signal, then end with status 41
 *     report-crash             write to address 0
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

extern char **environ;

static void put(const char *text)
{
	for (const unsigned char *at = (const unsigned char *)text; *at != '\0'; at++) {
		if (*at < ' ' || *at >= 0x7f || *at == '\\')
			printf("\\x%02x", *at);
		else
			putchar(*at);
	}
}

static void tell(const char *name, const char *about, const char *value)
{
	put(name);
	put(about);
	fputs(" = ", stdout);
	put(value);
	putchar('\n');
}

/* The first line of a file, or why there is none. */
static const char *line_of(const char *path)
{
	static char line[4096];
	FILE *file = fopen(path, "re");

	if (file == NULL)
		return strerror(errno);
	if (fgets(line, sizeof(line), file) == NULL)
		line[0] = '\0';
	line[strcspn(line, "\n")] = '\0';
	fclose(file);
	return line;
}

static void tell_words(int count, char **words)
{
	char text[4096] = "";

	for (int i = 0; i < count; i++) {
		strncat(text, i > 0 ? " [" : "[", sizeof(text) - strlen(text) - 1);
		strncat(text, words[i], sizeof(text) - strlen(text) - 1);
		strncat(text, "]", sizeof(text) - strlen(text) - 1);
	}
	tell("argv", "", text);
}

static void tell_environment(void)
{
	char order[4096] = "";

	for (char **variable = environ; *variable != NULL; variable++) {
		char name[256];
		size_t size = strcspn(*variable, "=");

		snprintf(name, sizeof(name), "%.*s", (int)size, *variable);
		strncat(order, order[0] ? " " : "", sizeof(order) - strlen(order) - 1);
		strncat(order, name, sizeof(order) - strlen(order) - 1);
		tell("env ", name, *variable + size + ((*variable)[size] == '='));
	}
	tell("env order", "", order);
}

/* The signals 32 and 33 are the C library's own: whoever was started by a posix_spawn, as all that
 * make starts, ignores them, and cannot undo that. */
static void forget_own_signals(char *mask)
{
	snprintf(mask, 17, "%016llx", strtoull(mask, NULL, 16) & ~(3ULL << 31));
}

static void tell_status(void)
{
	static const char *const fields[] = {
		"Uid", "Gid", "Groups", "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt", "CapInh",
		"CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp",
	};
	char line[4096];
	FILE *file = fopen("/proc/self/status", "re");

	while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
		for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
			size_t size = strlen(fields[i]);
			char *value = line + size + 1;

			if (strncmp(line, fields[i], size) != 0 || line[size] != ':')
				continue;
			for (char *at = value; *at != '\0'; at++)
				*at = *at == '\t' ? ' ' : *at;
			value += strspn(value, " ");
			for (size_t end = strlen(value); end > 0 && strchr(" \n", value[end - 1]); end--)
				value[end - 1] = '\0';
			if (strcmp(fields[i], "SigIgn") == 0 && strlen(value) == 16)
				forget_own_signals(value);
			tell("status ", fields[i], value);
		}
	}
	if (file != NULL)
		fclose(file);
}

static void tell_limits(void)
{
	static const struct {
		const char *name;
		int resource;
	} limits[] = {
		{"as", RLIMIT_AS}, {"core", RLIMIT_CORE}, {"cpu", RLIMIT_CPU},
		{"data", RLIMIT_DATA}, {"fsize", RLIMIT_FSIZE}, {"locks", RLIMIT_LOCKS},
		{"msgqueue", RLIMIT_MSGQUEUE}, {"nice", RLIMIT_NICE}, {"nofile", RLIMIT_NOFILE},
		{"nproc", RLIMIT_NPROC}, {"rss", RLIMIT_RSS}, {"rtprio", RLIMIT_RTPRIO},
		{"rttime", RLIMIT_RTTIME}, {"stack", RLIMIT_STACK},
	};

	for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
		struct rlimit limit;
		char soft[32] = "unlimited", hard[32] = "unlimited", text[80];

		getrlimit(limits[i].resource, &limit);
		if (limit.rlim_cur != RLIM_INFINITY)
			snprintf(soft, sizeof(soft), "%llu", (unsigned long long)limit.rlim_cur);
		if (limit.rlim_max != RLIM_INFINITY)
			snprintf(hard, sizeof(hard), "%llu", (unsigned long long)limit.rlim_max);
		snprintf(text, sizeof(text), "%s %s", soft, hard);
		tell("limit ", limits[i].name, text);
	}
}

static const char *kind(mode_t mode)
{
	return S_ISREG(mode) ? "file" : S_ISDIR(mode) ? "directory" : S_ISCHR(mode) ? "device"
	       : S_ISFIFO(mode) ? "pipe" : S_ISLNK(mode) ? "link" : "other";
}

/* What stands at path: its kind, mode and owner; a device's numbers, a link's target. */
static void tell_path(const char *name, const char *path)
{
	struct stat status;
	char text[4200], target[4096];
	ssize_t size;

	if (lstat(path, &status) != 0) {
		tell(name, path, strerror(errno));
		return;
	}
	if (S_ISLNK(status.st_mode)) {
		size = readlink(path, target, sizeof(target) - 1);
		target[size < 0 ? 0 : size] = '\0';
		snprintf(text, sizeof(text), "link to %s", target);
	} else if (S_ISCHR(status.st_mode)) {
		snprintf(text, sizeof(text), "device %u:%u %04o %u:%u", major(status.st_rdev),
			 minor(status.st_rdev), status.st_mode & 07777, status.st_uid,
			 status.st_gid);
	} else {
		snprintf(text, sizeof(text), "%s %04o %u:%u", kind(status.st_mode),
			 status.st_mode & 07777, status.st_uid, status.st_gid);
	}
	tell(name, path, text);
}

static void tell_directory(const char *path)
{
	struct dirent *entry;
	DIR *stream = opendir(path);
	char name[PATH_MAX];
	int fd;

	tell_path("path ", path);
	snprintf(name, sizeof(name), "%s/.report-was-here", path);
	fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	tell("write ", path, fd >= 0 ? "yes" : strerror(errno));
	if (fd >= 0) {
		close(fd);
		unlink(name);
	}
	if (strcmp(path, "/") == 0)
		return;
	while (stream != NULL && (entry = readdir(stream)) != NULL) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
		tell_path("path ", name);
	}
	if (stream != NULL)
		closedir(stream);
}

/* Type and options of what is mounted at path; of what lies on the host's disk under docker, whose
 * options are the host's, whether it can be written to. */
static void tell_mount(const char *name, const char *path, bool is_kernels)
{
	char line[4096], point[1024], flags[256], type[64], options[1024], text[2048] = "none";
	FILE *file = fopen("/proc/self/mountinfo", "re");

	while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
		char *rest = strstr(line, " - ");

		if (rest == NULL || sscanf(line, "%*s %*s %*s %*s %1023s %255s", point, flags) != 2 ||
		    sscanf(rest, " - %63s %*s %1023s", type, options) != 2 ||
		    strcmp(point, path) != 0)
			continue;
		if (is_kernels)
			snprintf(text, sizeof(text), "%s %s", type, flags);
		else
			snprintf(text, sizeof(text), "%.2s", flags);
		for (char *word = strtok(options, ","); word != NULL; word = strtok(NULL, ",")) {
			bool is_told = strncmp(word, "size=", 5) == 0 || strncmp(word, "mode=", 5) == 0 ||
				       strncmp(word, "gid=", 4) == 0 || strncmp(word, "ptmxmode=", 9) == 0;

			if (is_told && is_kernels)
				snprintf(text + strlen(text), sizeof(text) - strlen(text), ",%s", word);
		}
	}
	if (file != NULL)
		fclose(file);
	tell(name, path, text);
}

static void tell_opening(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);

	tell(flags == O_WRONLY ? "open for writing " : "open ", path, fd >= 0 ? "yes" : strerror(errno));
	if (fd >= 0)
		close(fd);
}

static void tell_devices(void)
{
	static const char *const known[] = {
		"null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "pts", "shm",
		"mqueue", "fd", "stdin", "stdout", "stderr",
		/* Not told, but no others: the first is there where the host has a /proc/kcore. */
		"core", ".", "..",
	};
	static const char *const opened[] = {
		"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty",
		"/dev/ptmx", "/dev/stdin", "/dev/fd/0",
	};
	struct dirent *entry;
	DIR *stream = opendir("/dev");
	char path[512];
	bool has_others = false;

	for (size_t i = 0; strcmp(known[i], "core") != 0; i++) {
		snprintf(path, sizeof(path), "/dev/%s", known[i]);
		tell_path("path ", path);
	}
	for (size_t i = 0; i < sizeof(opened) / sizeof(opened[0]); i++)
		tell_opening(opened[i], O_RDONLY);
	tell_opening("/dev/null", O_WRONLY);
	tell_opening("/dev/stdout", O_WRONLY);
	tell_opening("/dev/stderr", O_WRONLY);
	while (stream != NULL && (entry = readdir(stream)) != NULL) {
		bool is_known = false;

		for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
			is_known |= strcmp(entry->d_name, known[i]) == 0;
		has_others |= !is_known;
	}
	if (stream != NULL)
		closedir(stream);
	tell("/dev has others", "", has_others ? "yes" : "no");
}

static void tell_terminal(void)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	int slave = -1;
	struct stat status;
	char text[256] = "none";

	if (master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0 && ptsname(master) != NULL)
		slave = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (slave >= 0 && fstat(slave, &status) == 0)
		snprintf(text, sizeof(text), "%.9s %04o group %u, owner %s", ptsname(master),
			 status.st_mode & 07777, status.st_gid,
			 status.st_uid == getuid() ? "me" : "not me");
	tell("new terminal", "", text);
}

static void tell_standard_files(void)
{
	static const char *const names[] = {"stdin", "stdout", "stderr"};
	struct dirent *entry;
	struct stat status;
	char text[256], byte;
	DIR *stream = opendir("/proc/self/fd");
	int others = 0;

	for (int fd = 0; fd < 3; fd++) {
		fstat(fd, &status);
		snprintf(text, sizeof(text), "%s%s", kind(status.st_mode),
			 S_ISFIFO(status.st_mode) && status.st_uid != getuid() ? ", not mine" : "");
		tell("file ", names[fd], text);
	}
	snprintf(text, sizeof(text), "%zd", read(0, &byte, 1));
	tell("read of stdin", "", text);
	while (stream != NULL && (entry = readdir(stream)) != NULL)
		others += entry->d_name[0] != '.' && atoi(entry->d_name) > 2 &&
			  atoi(entry->d_name) != dirfd(stream);
	if (stream != NULL)
		closedir(stream);
	tell("other files open", "", others ? "yes" : "no");
}

static void tell_process(void)
{
	char text[64];
	mode_t mask = umask(0);

	umask(mask);
	snprintf(text, sizeof(text), "%04o", mask);
	tell("umask", "", text);
	tell("cwd", "", getcwd(NULL, 0) ? getcwd(NULL, 0) : strerror(errno));
	tell("process is the first", "", getpid() == 1 ? "yes" : "no");
	tell("process leads its session", "", getsid(0) == getpid() ? "yes" : "no");
	tell("process leads its group", "", getpgrp() == getpid() ? "yes" : "no");
	tell("oom_score_adj", "", line_of("/proc/self/oom_score_adj"));
	snprintf(text, sizeof(text), "%d", getpriority(PRIO_PROCESS, 0));
	tell("nice", "", text);
	snprintf(text, sizeof(text), "dumpable %d, securebits %d", prctl(PR_GET_DUMPABLE),
		 prctl(PR_GET_SECUREBITS));
	tell("process flags", "", text);
}

static void tell_network_files(void)
{
	static const char *const files[] = {
		"/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/mtab", "/.dockerenv",
	};
	char line[1024], name[256], address[256];
	FILE *file = fopen("/etc/hosts", "re");

	gethostname(name, sizeof(name));
	tell("host name", "", name);
	tell("/etc/hostname", "", line_of("/etc/hostname"));
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
		tell_path("path ", files[i]);
	tell_opening("/etc/hosts", O_WRONLY);
	tell_opening("/etc/resolv.conf", O_WRONLY);
	while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
		line[strcspn(line, "\n")] = '\0';
		if (sscanf(line, "%255s %255s", address, name) == 2)
			tell("hosts: ", strpbrk(line, " \t") + 1, address);
	}
	if (file != NULL)
		fclose(file);
	tell("/etc/resolv.conf", "", line_of("/etc/resolv.conf"));
}

static void tell_kernel(void)
{
	/* Those that docker sets, and those that it gives every container anew. */
	static const char *const values[] = {
		"net/ipv4/ip_unprivileged_port_start", "net/ipv4/ping_group_range",
		"kernel/domainname", "kernel/msgmax", "kernel/msgmnb", "kernel/sem", "kernel/shmall",
		"kernel/shmmax", "kernel/shmmni", "fs/mqueue/msg_max", "fs/mqueue/msgsize_max",
		"fs/mqueue/queues_max",
	};
	char path[256];

	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		char text[256];

		snprintf(path, sizeof(path), "/proc/sys/%s", values[i]);
		snprintf(text, sizeof(text), "%s", line_of(path));
		for (char *at = text; *at != '\0'; at++)
			*at = *at == '\t' ? ' ' : *at;
		tell("sysctl ", values[i], text);
	}
	tell_opening("/proc/sys/kernel/hostname", O_WRONLY);
}

static void report(int count, char **words, bool are_volumes)
{
	static const char *const mounts[] = {
		"/", "/proc", "/sys", "/sys/fs/cgroup", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue",
		"/tmp", "/run", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf",
	};
	static const char *const directories[] = {
		"/", "/proc", "/sys", "/dev", "/dev/shm", "/dev/mqueue", "/tmp",
	};

	tell_words(count, words);
	tell_environment();
	tell_status();
	tell_limits();
	tell_process();
	tell_standard_files();
	for (size_t i = 0; i < sizeof(mounts) / sizeof(mounts[0]); i++)
		tell_mount("mount ", mounts[i], strncmp(mounts[i], "/etc/", 5) != 0 && mounts[i][1] != '\0');
	for (size_t i = 0; i < sizeof(directories) / sizeof(directories[0]); i++) {
		const char *path = directories[i];

		tell_path("path ", path);
		tell("may write to ", path, access(path, W_OK) == 0 ? "yes" : strerror(errno));
	}
	tell_devices();
	tell_terminal();
	tell_network_files();
	tell_kernel();
	for (int i = 1; are_volumes && i < count; i++) {
		tell_mount("volume ", words[i], false);
		tell_directory(words[i]);
	}
}

static int wait_for_signal(void)
{
	/* A C library keeps some signals for itself, the kernel none. But `runc run` passes on SIGURG,
	 * by which Go interrupts its own threads. */
	uint64_t all = ~(UINT64_C(1) << (SIGURG - 1));
	long number;

	syscall(SYS_rt_sigprocmask, SIG_BLOCK, &all, NULL, sizeof(all));
	puts("ready");
	fflush(stdout);
	do {
		number = syscall(SYS_rt_sigtimedwait, &all, NULL, NULL, sizeof(all));
	} while (number < 0 && errno == EINTR);
	printf("signal %ld\n", number);
	return 40;
}

int main(int argc, char **argv)
{
	const char *name = strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0];

	if (strcmp(name, "report-wait") == 0)
		return wait_for_signal();
	if (strcmp(name, "report-die") == 0 && argc == 2) {
		raise(atoi(argv[1]));
		return 41;
	}
	if (strcmp(name, "report-crash") == 0)
		*(volatile char *)0 = 1;
	report(argc, argv, strcmp(name, "report-volumes") == 0);
	return 0;
}
