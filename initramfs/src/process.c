#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "freezer.h"
#include "moment.h"

enum { FILES_LIMIT = 1048576 }; /* what docker gives, and the kernel's fs.nr_open */

/* What the child tells of a failure, through a pipe that a successful execve closes. */
struct report {
	int error;
	uint32_t status;
	char step[16];
};

struct pipes {
	int input[2];
	int output[2];
	int error[2];
	int report[2];
};

static const char *variable(char *const *environ, const char *name)
{
	size_t size = strlen(name);

	for (; *environ != NULL; environ++) {
		if (strncmp(*environ, name, size) == 0 && (*environ)[size] == '=')
			return *environ + size + 1;
	}
	return NULL;
}

/* Returns only on failure, with the errno; ELIBACC where the file is there but not its loader. */
static int try_execute(const char *path, char *const *argv, const struct spec *spec)
{
	int error;

	execve(path, argv, spec->environ);
	error = errno;
	return error == ENOENT && access(path, F_OK) == 0 ? ELIBACC : error;
}

/* Tries each directory of PATH; returns only if nothing could be executed, with the errno. */
static int execute(char *const *argv, const struct spec *spec)
{
	const char *name = argv[0];
	const char *path = variable(spec->environ, "PATH");
	int denied = 0;

	if (strchr(name, '/') != NULL)
		return try_execute(name, argv, spec);
	if (path != NULL && path[0] == '\0')
		path = NULL;
	while (path != NULL) {
		char candidate[4096];
		size_t size = strcspn(path, ":");
		int written = snprintf(candidate, sizeof(candidate), "%.*s/%s", (int)size,
				       size > 0 ? path : ".", name);

		if (size == 0)
			written = snprintf(candidate, sizeof(candidate), "./%s", name);
		if (written > 0 && (size_t)written < sizeof(candidate)) {
			int error = try_execute(candidate, argv, spec);

			if (error != ENOENT && error != ENOTDIR && error != EACCES)
				return error;
			if (error == EACCES)
				denied = EACCES;
		}
		path = path[size] == ':' ? path + size + 1 : NULL;
	}
	return denied != 0 ? denied : ENOENT;
}

__attribute__((noreturn))
static void give_up(int pipe, const char *step, int error, uint32_t status)
{
	struct report report = {.error = error, .status = status};

	snprintf(report.step, sizeof(report.step), "%s", step);
	if (write(pipe, &report, sizeof(report)) < 0)
		_exit(STATUS_FAILED);
	_exit((int)status);
}

static void reset_signals(void)
{
	sigset_t none;

	for (int number = 1; number < NSIG; number++)
		signal(number, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

void process_become(const struct spec *spec, char *const *argv, const struct standard *files,
		    int report)
{
	const struct rlimit files_limit = {FILES_LIMIT, FILES_LIMIT};
	const struct rlimit processes_limit = {RLIM_INFINITY, RLIM_INFINITY};
	const struct user *user = &spec->user;
	uint64_t executed;
	int error;

	reset_signals();
	setsid();
	umask(022);
	if (dup2(files->input, 0) < 0 || dup2(files->output, 1) < 0 || dup2(files->error, 2) < 0)
		give_up(report, "standard files", errno, STATUS_FAILED);
	if (setrlimit(RLIMIT_NOFILE, &files_limit) != 0 ||
	    setrlimit(RLIMIT_NPROC, &processes_limit) != 0)
		give_up(report, "setrlimit", errno, STATUS_FAILED);
	if (chdir(spec->cwd) != 0)
		give_up(report, "chdir", errno, STATUS_FAILED);
	if (setgroups(user->group_count, user->groups) != 0 || setgid(user->gid) != 0 ||
	    setuid(user->uid) != 0)
		give_up(report, "set user", errno, STATUS_FAILED);
	executed = now();
	if (report >= 0 && write(report, &executed, sizeof(executed)) < 0)
		_exit(STATUS_FAILED);
	error = execute(argv, spec);
	give_up(report, "exec", error,
		error == ENOENT || error == ENOTDIR || error == ELIBACC ? STATUS_NOT_FOUND
									: STATUS_NOT_EXECUTABLE);
}

/* A group of its own is needed by what is to be frozen alone. */
__attribute__((noreturn))
static void become_application(const struct spec *spec, const struct pipes *pipes, int group)
{
	const struct standard files = {pipes->input[0], pipes->output[1], pipes->error[1]};

	if (group >= 0 && write(group, "0", 1) != 1)
		give_up(pipes->report[1], "control group", errno, STATUS_FAILED);
	process_become(spec, spec->argv, &files, pipes->report[1]);
}

static int explain(const struct spec *spec, const struct report *report, struct failure *why)
{
	const char *name = spec->argv[0];

	if (strcmp(report->step, "exec") != 0)
		return fail(why, report->status, "start %s: %s: %s", name, report->step,
			    strerror(report->error));
	if (report->error == ELIBACC)
		return fail(why, report->status,
			    "exec \"%s\": the interpreter or ELF loader it names is not in the image", name);
	if (report->status != STATUS_NOT_FOUND)
		return fail(why, report->status, "exec \"%s\": %s", name, strerror(report->error));
	return fail(why, report->status, "exec \"%s\": %s", name,
		    strchr(name, '/') ? "no such file in the image" : "not found in PATH");
}

/* Makes path with its parents; what is there stays as it is. */
static int make_directories(const char *path, struct failure *why)
{
	char part[4096];
	size_t size = strlen(path);

	if (size >= sizeof(part))
		return fail(why, STATUS_FAILED, "the working directory's path is too long");
	for (size_t end = 1; end <= size; end++) {
		if (path[end] != '/' && path[end] != '\0')
			continue;
		memcpy(part, path, end);
		part[end] = '\0';
		if (mkdir(part, 0755) != 0 && errno != EEXIST)
			return fail(why, STATUS_FAILED, "working directory %s: %s", part,
				    strerror(errno));
	}
	return 0;
}

static int open_pipes(const struct spec *spec, struct pipes *pipes)
{
	if (pipe2(pipes->input, O_CLOEXEC) != 0 || pipe2(pipes->output, O_CLOEXEC) != 0 ||
	    pipe2(pipes->error, O_CLOEXEC) != 0 || pipe2(pipes->report, O_CLOEXEC) != 0)
		return -1;
	/* An application without privileges may open /dev/stdout anew, as under docker. */
	if (fchown(pipes->input[0], spec->user.uid, spec->user.gid) != 0 ||
	    fchown(pipes->output[1], spec->user.uid, spec->user.gid) != 0 ||
	    fchown(pipes->error[1], spec->user.uid, spec->user.gid) != 0)
		return -1;
	if (fcntl(pipes->input[1], F_SETFL, O_NONBLOCK) != 0 ||
	    fcntl(pipes->output[0], F_SETFL, O_NONBLOCK) != 0 ||
	    fcntl(pipes->error[0], F_SETFL, O_NONBLOCK) != 0)
		return -1;
	return 0;
}

/* Reads what the child tells until execve closes the pipe: the time, and a report on failure. */
static int hear_child(const struct spec *spec, int pipe, uint64_t *executed, struct failure *why)
{
	char told[sizeof(*executed) + sizeof(struct report)];
	struct report report;
	size_t size = 0;
	ssize_t count;

	while ((count = read(pipe, told + size, sizeof(told) - size)) > 0)
		size += (size_t)count;
	memcpy(executed, told, sizeof(*executed));
	if (count == 0 && size == sizeof(*executed))
		return 0;
	/* A child that fails before its execve tells no time. */
	if (size < sizeof(report))
		return fail(why, STATUS_FAILED, "start %s: the child died", spec->argv[0]);
	memcpy(&report, told + size - sizeof(report), sizeof(report));
	return explain(spec, &report, why);
}

int process_start(const struct spec *spec, struct process *process, struct failure *why)
{
	struct pipes pipes;
	int group = -1;
	int result;

	if (make_directories(spec->cwd, why) != 0)
		return -1;
	if (spec->hold != HOLD_NOWHERE && (group = freezer_open()) < 0)
		return fail(why, STATUS_FAILED, "control group: %s", strerror(errno));
	if (open_pipes(spec, &pipes) != 0)
		return fail(why, STATUS_FAILED, "pipes: %s", strerror(errno));
	process->pid = fork();
	if (process->pid < 0)
		return fail(why, STATUS_FAILED, "fork: %s", strerror(errno));
	if (process->pid == 0)
		become_application(spec, &pipes, group);
	if (group >= 0)
		close(group);
	close(pipes.input[0]);
	close(pipes.output[1]);
	close(pipes.error[1]);
	close(pipes.report[1]);
	process->input = pipes.input[1];
	process->output = pipes.output[0];
	process->error = pipes.error[0];
	result = hear_child(spec, pipes.report[0], &process->executed, why);
	close(pipes.report[0]);
	return result;
}
