#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "builtin.h"
#include "moment.h"
#include "terminal.h"

enum { FILES_LIMIT = 1048576 }; /* what docker gives, and the kernel's fs.nr_open */

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
static int try_execute(const char *path, const struct command *command)
{
	int error;

	execve(path, command->argv, command->environ);
	error = errno;
	return error == ENOENT && access(path, F_OK) == 0 ? ELIBACC : error;
}

/* Tries each directory of PATH; returns only if nothing could be executed, with the errno. */
static int execute(const struct command *command)
{
	const char *name = command->argv[0];
	const char *path = variable(command->environ, "PATH");
	int denied = 0;

	if (strchr(name, '/') != NULL)
		return try_execute(name, command);
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
			int error = try_execute(candidate, command);

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
static void give_up(int report, const struct failure *why)
{
	if (report >= 0 && write(report, why, sizeof(*why)) < 0)
		_exit(STATUS_FAILED);
	_exit((int)why->status);
}

__attribute__((noreturn))
static void give_up_step(int report, const struct command *command, const char *step,
			 uint32_t status)
{
	struct failure why;

	fail(&why, status, "start %s: %s: %s", command->argv[0], step, strerror(errno));
	give_up(report, &why);
}

__attribute__((noreturn))
static void give_up_exec(int report, const char *name, int error)
{
	struct failure why;

	if (error == ELIBACC)
		fail(&why, STATUS_NOT_FOUND,
		     "exec \"%s\": the interpreter or ELF loader it names is not in the image", name);
	else if (error == ENOENT || error == ENOTDIR)
		fail(&why, STATUS_NOT_FOUND, "exec \"%s\": %s", name,
		     strchr(name, '/') ? "no such file in the image" : "not found in PATH");
	else
		fail(&why, STATUS_NOT_EXECUTABLE, "exec \"%s\": %s", name, strerror(error));
	give_up(report, &why);
}

static void reset_signals(void)
{
	sigset_t none;

	for (int number = 1; number < NSIG; number++)
		signal(number, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* A built-in has all that hyperstart has, and needs none of it. */
__attribute__((noreturn))
static void become_builtin(const struct command *command)
{
	syscall(SYS_close_range, 3, ~0U, 0);
	_exit(builtin_run(command->argv));
}

void process_become(const struct command *command, const struct standard *files, int report)
{
	const struct rlimit files_limit = {FILES_LIMIT, FILES_LIMIT};
	const struct rlimit processes_limit = {RLIM_INFINITY, RLIM_INFINITY};
	const struct user *user = command->user;
	uint64_t executed;

	reset_signals();
	setsid();
	umask(022);
	if (files->terminal >= 0 && terminal_take(files->terminal) != 0)
		give_up_step(report, command, "terminal", STATUS_FAILED);
	if (dup2(files->input, 0) < 0 || dup2(files->output, 1) < 0 || dup2(files->error, 2) < 0)
		give_up_step(report, command, "standard files", STATUS_FAILED);
	if (setrlimit(RLIMIT_NOFILE, &files_limit) != 0 ||
	    setrlimit(RLIMIT_NPROC, &processes_limit) != 0)
		give_up_step(report, command, "setrlimit", STATUS_FAILED);
	if (command->space >= 0 && setns(command->space, CLONE_NEWNS) != 0)
		give_up_step(report, command, "mount namespace", STATUS_FAILED);
	if (chdir(command->cwd) != 0)
		give_up_step(report, command, command->cwd, STATUS_NOT_EXECUTABLE);
	if (setgroups(user->group_count, user->groups) != 0 || setgid(user->gid) != 0 ||
	    setuid(user->uid) != 0)
		give_up_step(report, command, "set user", STATUS_FAILED);
	executed = now();
	if (report >= 0 && write(report, &executed, sizeof(executed)) < 0)
		_exit(STATUS_FAILED);
	if (command->is_builtin)
		become_builtin(command);
	give_up_exec(report, command->argv[0], execute(command));
}

static void shut(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* Both ends of what a child is connected by; -1 for what there is not. */
struct wires {
	struct standard theirs;
	struct stream_ends ours;
	int report[2];
};

static void cut_theirs(struct wires *wires)
{
	/* A terminal is all three of them. */
	if (wires->theirs.terminal < 0) {
		shut(&wires->theirs.input);
		shut(&wires->theirs.output);
		shut(&wires->theirs.error);
	}
	shut(&wires->theirs.terminal);
	shut(&wires->report[1]);
}

static void cut_ours(struct wires *wires)
{
	shut(&wires->ours.input);
	shut(&wires->ours.output);
	shut(&wires->ours.error);
	shut(&wires->report[0]);
}

/* A pipe whose end for the child a user without privileges may open anew (/dev/stdout), as under
 * docker; our end is non-blocking. */
static int open_pipe(int *reader, int *writer, bool is_read_by_us, uint32_t uid, uint32_t gid)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) != 0)
		return -1;
	*reader = ends[0];
	*writer = ends[1];
	if (fchown(ends[is_read_by_us ? 1 : 0], uid, gid) != 0)
		return -1;
	return fcntl(ends[is_read_by_us ? 0 : 1], F_SETFL, O_NONBLOCK);
}

static int wire_terminal(struct wires *wires, const struct command *command,
			 const struct birth *birth, struct failure *why)
{
	struct terminal terminal;

	if (terminal_open(&terminal, &birth->size, command->user->uid, why) != 0)
		return -1;
	wires->theirs = (struct standard){terminal.theirs, terminal.theirs, terminal.theirs,
					  terminal.theirs};
	wires->ours.is_terminal = true;
	wires->ours.output = terminal.ours;
	if (!birth->wants_input)
		return 0;
	wires->ours.input = fcntl(terminal.ours, F_DUPFD_CLOEXEC, 0);
	return wires->ours.input >= 0 ? 0 : fail(why, STATUS_FAILED, "terminal: %s", strerror(errno));
}

static int wire_pipes(struct wires *wires, const struct command *command,
		      const struct birth *birth, struct failure *why)
{
	uint32_t uid = command->user->uid, gid = command->user->gid;
	int result = 0;

	if (birth->wants_input)
		result = open_pipe(&wires->theirs.input, &wires->ours.input, false, uid, gid);
	else
		wires->theirs.input = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (result != 0 || wires->theirs.input < 0 ||
	    open_pipe(&wires->ours.output, &wires->theirs.output, true, uid, gid) != 0 ||
	    open_pipe(&wires->ours.error, &wires->theirs.error, true, uid, gid) != 0)
		return fail(why, STATUS_FAILED, "pipes: %s", strerror(errno));
	return 0;
}

/* The console becomes the user's, who may want to open it anew (/dev/stdout). A machine may have none. */
static int wire_console(struct wires *wires, const struct command *command, struct failure *why)
{
	int console = open("/dev/console", O_RDWR | O_NOCTTY | O_CLOEXEC);

	if (console < 0)
		console = open("/dev/null", O_RDWR | O_CLOEXEC);
	else if (fchown(console, command->user->uid, command->user->gid) != 0)
		return fail(why, STATUS_FAILED, "console: %s", strerror(errno));
	wires->theirs.input = open("/dev/null", O_RDONLY | O_CLOEXEC);
	wires->theirs.output = console;
	wires->theirs.error = fcntl(console, F_DUPFD_CLOEXEC, 0);
	if (wires->theirs.input < 0 || wires->theirs.output < 0 || wires->theirs.error < 0)
		return fail(why, STATUS_FAILED, "console: %s", strerror(errno));
	return 0;
}

static int wire(struct wires *wires, const struct command *command, const struct birth *birth,
		struct failure *why)
{
	int flags = O_CLOEXEC | (birth->is_asynchronous ? O_NONBLOCK : 0);

	*wires = (struct wires){{-1, -1, -1, -1}, {-1, -1, -1, false}, {-1, -1}};
	if (pipe2(wires->report, flags) != 0)
		return fail(why, STATUS_FAILED, "pipes: %s", strerror(errno));
	if (birth->has_console)
		return wire_console(wires, command, why);
	return birth->has_terminal ? wire_terminal(wires, command, birth, why)
				   : wire_pipes(wires, command, birth, why);
}

int process_start(const struct command *command, const struct birth *birth, struct child *child,
		  struct failure *why)
{
	struct wires wires;
	int result = wire(&wires, command, birth, why);

	if (result == 0) {
		child->pid = fork();
		if (child->pid < 0)
			result = fail(why, STATUS_FAILED, "fork: %s", strerror(errno));
	}
	if (result == 0 && child->pid == 0) {
		if (birth->group >= 0 && write(birth->group, "0", 1) != 1)
			give_up_step(wires.report[1], command, "control group", STATUS_FAILED);
		process_become(command, &wires.theirs, wires.report[1]);
	}
	cut_theirs(&wires);
	if (result != 0) {
		cut_ours(&wires);
		return -1;
	}
	child->report = wires.report[0];
	child->ends = wires.ours;
	return 0;
}

enum heard process_hear(int report, struct story *story, uint64_t *executed, struct failure *why)
{
	ssize_t count;

	/* A successful execve closes the pipe, as does any end. */
	while ((count = read(report, story->told + story->size, sizeof(story->told) - story->size)) > 0)
		story->size += (size_t)count;
	if (count < 0 && (errno == EAGAIN || errno == EINTR))
		return HEARD_NOTHING;
	memcpy(executed, story->told, sizeof(*executed));
	if (story->size == sizeof(*executed))
		return HEARD_START;
	/* A child that fails before its execve tells no time. */
	if (story->size >= sizeof(*why))
		memcpy(why, story->told + story->size - sizeof(*why), sizeof(*why));
	else
		fail(why, STATUS_FAILED, "the child died before it was what it is to be");
	return HEARD_FAILURE;
}
