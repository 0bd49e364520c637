#include "processes.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "freezer.h"
#include "paths.h"
#include "request.h"
#include "terminal.h"

static void add(struct processes *all, size_t place, uint32_t number, const struct child *child)
{
	all->list[place] = (struct process){
		.is_there = true,
		.is_alive = true,
		.number = number,
		.pid = child->pid,
		.report = child->report,
	};
	stream_open(&all->stream, place, number, &child->ends);
}

int processes_begin(struct processes *all, uint64_t *executed, struct failure *why)
{
	const struct spec *spec = all->spec;
	const struct container *container = &spec->containers[0];
	const struct command command = {
		.user = &container->user,
		.cwd = container->cwd,
		.environ = container->environ,
		.argv = spec->argv,
		.space = container->space,
	};
	struct birth birth = {
		.wants_input = true,
		.has_terminal = spec->has_terminal,
		.has_console = spec->is_alone,
		.size = spec->terminal_size,
		.group = -1,
	};
	struct process *application = &all->list[APPLICATION];
	struct child child;
	int result;

	all->stream.channel = all->channel;
	if (make_directories(container->cwd) != 0)
		return fail(why, STATUS_FAILED, "working directory %s: %s", container->cwd,
			    strerror(errno));
	if (spec->hold != HOLD_NOWHERE && (birth.group = freezer_open()) < 0)
		return fail(why, STATUS_FAILED, "control group: %s", strerror(errno));
	result = process_start(&command, &birth, &child, why);
	if (birth.group >= 0)
		close(birth.group);
	if (result != 0)
		return -1;
	add(all, APPLICATION, APPLICATION, &child);
	if (process_hear(child.report, &application->story, executed, why) != HEARD_START)
		return -1;
	close(child.report);
	application->report = -1;
	application->has_started = true;
	stream_start(&all->stream, APPLICATION);
	return 0;
}

int processes_begin_pod(struct processes *all, struct failure *why)
{
	all->stream.channel = all->channel;
	for (size_t i = 0; i < all->spec->container_count; i++) {
		if (group_make(i, &all->groups[i]) != 0)
			return fail(why, STATUS_FAILED, "control group: %s", strerror(errno));
	}
	return 0;
}

void processes_clear(struct processes *all, uint32_t container)
{
	if (spec_is_pod(all->spec) && container < all->spec->container_count)
		group_kill(&all->groups[container]);
}

void processes_end_pod(struct processes *all)
{
	all->is_ending = true;
	for (size_t i = APPLICATION + 1; i < FLOWS_MAX; i++) {
		if (all->list[i].is_there && all->list[i].is_alive)
			kill(all->list[i].pid, SIGTERM);
	}
}

void refuse_exec(const struct channel *channel, const struct message *message, const char *reason)
{
	struct failure why;

	fail(&why, STATUS_FAILED, "exec: %s", reason);
	send_refused(channel, get_u32(message->payload), &why);
}

static size_t free_place(const struct processes *all)
{
	size_t place = APPLICATION + 1;

	while (place < FLOWS_MAX && all->list[place].is_there)
		place++;
	return place;
}

static int start(struct processes *all, const struct request *request, struct failure *why)
{
	static const struct user root;
	static char *variables[2 * STRINGS_MAX];
	const struct container *container = &all->spec->containers[request->container];
	const struct user *user = request->has_user ? &request->user : &container->user;
	const struct command command = {
		/* What a built-in reads and writes is the host's affair, not the application's. */
		.user = request->is_builtin && !request->has_user ? &root : user,
		.cwd = *request->cwd != '\0' ? request->cwd : container->cwd,
		.environ = variables,
		.argv = request->argv,
		.is_builtin = request->is_builtin,
		.space = container->space,
	};
	const struct birth birth = {
		.wants_input = request->wants_input,
		.has_terminal = request->has_terminal,
		.is_asynchronous = true,
		.group = spec_is_pod(all->spec) ? all->groups[request->container].entrance : -1,
		.size = request->terminal_size,
	};
	size_t place = free_place(all);
	struct child child;

	if (request->process <= all->last)
		return fail(why, STATUS_FAILED, "exec: the number %u, or a higher one, was used before",
			    request->process);
	all->last = request->process;
	if (place == FLOWS_MAX)
		return fail(why, STATUS_FAILED, "exec: %d processes run already", FLOWS_MAX - 1);
	if (merge_environ(container->environ, request->environ, variables, 2 * STRINGS_MAX) != 0)
		return fail(why, STATUS_FAILED, "exec: the environment has too many variables");
	if (process_start(&command, &birth, &child, why) != 0)
		return -1;
	add(all, place, request->process, &child);
	return 0;
}

void processes_exec(struct processes *all, const struct message *message)
{
	static struct request request;
	struct failure why;

	if (all->is_ending)
		refuse_exec(all->channel, message, "the pod is ending");
	else if (!all->list[APPLICATION].is_alive && !spec_is_pod(all->spec))
		refuse_exec(all->channel, message, "the application has ended");
	else if (all->spec->hold != HOLD_NOWHERE)
		refuse_exec(all->channel, message, "this VM is to be copied");
	else if (request_read(message, all->spec->container_count, &request, &why) != 0 ||
		 start(all, &request, &why) != 0)
		send_refused(all->channel, get_u32(message->payload), &why);
}

static struct process *find(struct processes *all, uint32_t number)
{
	for (size_t i = 0; i < FLOWS_MAX; i++) {
		if (all->list[i].is_there && all->list[i].number == number)
			return &all->list[i];
	}
	return NULL;
}

void processes_signal(struct processes *all, uint32_t number, int signal)
{
	struct process *process = find(all, number);

	if (process != NULL && process->is_alive)
		kill(process->pid, signal);
}

void processes_resize(struct processes *all, uint32_t number, const struct terminal_size *size)
{
	struct process *process = find(all, number);
	struct flow *flow;

	if (process == NULL)
		return;
	flow = &all->stream.flows[process - all->list];
	if (flow->is_terminal && flow->outlets[OUTPUT].fd >= 0)
		terminal_resize(flow->outlets[OUTPUT].fd, size);
}

void processes_bury(struct processes *all, pid_t pid, int status)
{
	for (size_t i = 0; i < FLOWS_MAX; i++) {
		struct process *process = &all->list[i];

		if (!process->is_there || !process->is_alive || process->pid != pid)
			continue;
		process->is_alive = false;
		process->status = WIFSIGNALED(status) ? 128 + (uint32_t)WTERMSIG(status)
						      : (uint32_t)WEXITSTATUS(status);
		/* All that the application leaves behind ends with it, so its pipes do; what a
		 * process of EXEC has left behind may run on with them. */
		all->stream.flows[i].is_dead = true;
		all->stream.flows[i].is_left_alone = i != APPLICATION;
	}
}

/* Of a process that never starts nothing is told but that. */
static void hear(struct processes *all, size_t place)
{
	struct process *process = &all->list[place];
	struct failure why;
	uint64_t executed;
	enum heard heard = process_hear(process->report, &process->story, &executed, &why);

	if (heard == HEARD_NOTHING)
		return;
	close(process->report);
	process->report = -1;
	process->has_started = heard == HEARD_START;
	if (process->has_started) {
		send_started(all->channel, process->number);
		stream_start(&all->stream, place);
	} else {
		stream_close(&all->stream, place);
		send_refused(all->channel, process->number, &why);
	}
}

/* Lets go of who has nothing more to tell. */
static void dismiss(struct processes *all, size_t place)
{
	struct process *process = &all->list[place];

	if (process->is_alive || process->report >= 0)
		return;
	if (process->has_started && !stream_is_done(&all->stream, place))
		return;
	if (process->has_started)
		send_ended(all->channel, process->number, process->status);
	stream_close(&all->stream, place);
	process->is_there = false;
}

size_t processes_watch(const struct processes *all, struct pollfd *watched)
{
	size_t count = stream_watch(&all->stream, watched);

	for (size_t i = 0; i < all->stream.count; i++) {
		const struct process *process = &all->list[i];
		bool is_awaited = process->is_there && process->report >= 0;

		watched[count++] = (struct pollfd){.fd = is_awaited ? process->report : -1,
						   .events = POLLIN};
	}
	return count;
}

int processes_turn(struct processes *all, const struct pollfd *watched, struct failure *why)
{
	for (size_t i = APPLICATION + 1; i < FLOWS_MAX; i++) {
		if (all->list[i].is_there && all->list[i].report >= 0)
			hear(all, i);
	}
	if (stream_turn(&all->stream, watched, why) != 0)
		return -1;
	for (size_t i = APPLICATION + 1; i < FLOWS_MAX; i++) {
		if (all->list[i].is_there)
			dismiss(all, i);
	}
	return 0;
}

bool processes_are_over(const struct processes *all)
{
	if (!spec_is_pod(all->spec))
		return !all->list[APPLICATION].is_alive && stream_is_done(&all->stream, APPLICATION);
	for (size_t i = APPLICATION + 1; i < FLOWS_MAX; i++) {
		if (all->list[i].is_there)
			return false;
	}
	return all->is_ending;
}
