#include "supervise.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FRAME_HEAD = 12, CHUNK = 32768 };
enum { STREAM_OUTPUT = 1, STREAM_ERROR = 2 };
enum { SIGNALS, CONTROL, STREAM, TIMER, OUTPUT, ERROR, WATCHED };

struct supervisor {
	const struct channel *channel;
	struct pollfd watched[WATCHED];
	pid_t pid; /* 0 once the application is dead */
	uint32_t status;
	int stop_signal;
	bool host_is_gone;
	struct decoder decoder;
	/* One frame on its way to the stream port: pipes are read only when there is none, so that
	 * a slow host slows the application instead of filling memory. */
	uint8_t frame[FRAME_HEAD + CHUNK];
	size_t frame_size;
	size_t frame_sent;
};

int signals_open(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	if (sigprocmask(SIG_BLOCK, &set, NULL) != 0)
		return -1;
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void bury(struct supervisor *self)
{
	struct signalfd_siginfo info;
	pid_t pid;
	int status;

	while (read(self->watched[SIGNALS].fd, &info, sizeof(info)) > 0)
		;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid != self->pid)
			continue;
		self->pid = 0;
		self->status = WIFSIGNALED(status) ? 128 + (uint32_t)WTERMSIG(status)
						   : (uint32_t)WEXITSTATUS(status);
		/* What it leaves behind ends with it, as in a container, and lets go of the pipes. */
		kill(-1, SIGKILL);
	}
}

static void arm(int timer, uint32_t milliseconds)
{
	struct itimerspec when = {
		.it_value = {.tv_sec = milliseconds / 1000,
			     .tv_nsec = (long)(milliseconds % 1000) * 1000000},
	};

	if (milliseconds == 0)
		when.it_value.tv_nsec = 1;
	timerfd_settime(timer, 0, &when, NULL);
}

static void obey(struct supervisor *self, const struct message *message)
{
	uint32_t number = get_u32(message->payload);

	if (self->pid == 0 || message->size != 4)
		return;
	if (message->type == MESSAGE_SIGNAL && number < (uint32_t)NSIG) {
		kill(self->pid, (int)number);
	} else if (message->type == MESSAGE_STOP) {
		kill(self->pid, self->stop_signal);
		arm(self->watched[TIMER].fd, number);
	}
}

static int hear(struct supervisor *self, struct failure *why)
{
	uint8_t buffer[4096];
	const uint8_t *data = buffer;
	struct message message;
	ssize_t count = read(self->watched[CONTROL].fd, buffer, sizeof(buffer));
	size_t size = count > 0 ? (size_t)count : 0;
	int found;

	if (count == 0 || (count < 0 && errno != EINTR && errno != EAGAIN)) {
		self->watched[CONTROL].fd = -1;
		return 0;
	}
	while ((found = decode(&self->decoder, &data, &size, &message)) > 0)
		obey(self, &message);
	return found == 0 ? 0 : fail(why, STATUS_FAILED, "control port: a message over %d bytes",
				     PAYLOAD_MAX);
}

static void frame_push(struct supervisor *self)
{
	const uint8_t *rest = self->frame + self->frame_sent;
	ssize_t count;

	if (self->frame_size == 0)
		return;
	count = self->host_is_gone ? (ssize_t)(self->frame_size - self->frame_sent)
				   : write(self->channel->stream, rest,
					   self->frame_size - self->frame_sent);
	if (count < 0) {
		self->host_is_gone = errno != EAGAIN && errno != EINTR;
		return;
	}
	self->frame_sent += (size_t)count;
	if (self->frame_sent == self->frame_size)
		self->frame_size = self->frame_sent = 0;
}

/* Takes what a pipe has into the frame; an end of file becomes an empty frame. */
static void pump(struct supervisor *self, int which)
{
	ssize_t count = read(self->watched[which].fd, self->frame + FRAME_HEAD, CHUNK);

	if (count < 0)
		return;
	if (count == 0) {
		close(self->watched[which].fd);
		self->watched[which].fd = -1;
	}
	put_u64(self->frame, which == OUTPUT ? STREAM_OUTPUT : STREAM_ERROR);
	put_u32(self->frame + 8, (uint32_t)count);
	self->frame_size = FRAME_HEAD + (size_t)count;
	frame_push(self);
}

static void discard_input(struct supervisor *self)
{
	uint8_t buffer[4096];
	ssize_t count = read(self->watched[STREAM].fd, buffer, sizeof(buffer));

	if (count == 0 || (count < 0 && errno != EINTR && errno != EAGAIN))
		self->host_is_gone = true;
}

static bool is_done(const struct supervisor *self)
{
	return self->pid == 0 && self->watched[OUTPUT].fd < 0 && self->watched[ERROR].fd < 0 &&
	       self->frame_size == 0;
}

static void choose_events(struct supervisor *self)
{
	short pipes = self->frame_size == 0 ? POLLIN : 0;

	self->watched[STREAM].events = (short)(POLLIN | (self->frame_size > 0 ? POLLOUT : 0));
	if (self->host_is_gone)
		self->watched[STREAM].fd = -1;
	for (int which = OUTPUT; which <= ERROR; which++)
		self->watched[which].events = pipes;
}

static int turn(struct supervisor *self, struct failure *why)
{
	struct pollfd *watched = self->watched;

	choose_events(self);
	if (poll(watched, WATCHED, -1) < 0)
		return errno == EINTR ? 0 : fail(why, STATUS_FAILED, "poll: %s", strerror(errno));
	if (watched[SIGNALS].revents)
		bury(self);
	if (watched[TIMER].revents & POLLIN && self->pid != 0) {
		uint64_t expirations;

		if (read(watched[TIMER].fd, &expirations, sizeof(expirations)) > 0)
			kill(self->pid, SIGKILL);
	}
	if (watched[CONTROL].revents & (POLLIN | POLLHUP) && hear(self, why) != 0)
		return -1;
	if (watched[STREAM].revents & POLLHUP)
		self->host_is_gone = true;
	else if (watched[STREAM].revents & POLLIN)
		discard_input(self);
	frame_push(self);
	for (int which = OUTPUT; which <= ERROR; which++) {
		if (self->frame_size == 0 && watched[which].fd >= 0 &&
		    watched[which].revents & (POLLIN | POLLHUP))
			pump(self, which);
	}
	return 0;
}

int supervise(const struct channel *channel, struct process *process, int signals_fd,
	      int stop_signal, uint32_t *status, struct failure *why)
{
	static struct supervisor self;
	int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);

	if (timer < 0)
		return fail(why, STATUS_FAILED, "timerfd: %s", strerror(errno));
	self.channel = channel;
	self.pid = process->pid;
	self.stop_signal = stop_signal;
	self.watched[SIGNALS] = (struct pollfd){.fd = signals_fd, .events = POLLIN};
	self.watched[CONTROL] = (struct pollfd){.fd = channel->control, .events = POLLIN};
	self.watched[STREAM] = (struct pollfd){.fd = channel->stream};
	self.watched[TIMER] = (struct pollfd){.fd = timer, .events = POLLIN};
	self.watched[OUTPUT] = (struct pollfd){.fd = process->output};
	self.watched[ERROR] = (struct pollfd){.fd = process->error};
	while (!is_done(&self)) {
		if (turn(&self, why) != 0)
			return -1;
	}
	*status = self.status;
	return 0;
}

void wait_for_host(const struct channel *channel)
{
	struct pollfd control = {.fd = channel->control, .events = POLLIN};
	struct decoder decoder = {.have = 0};

	for (;;) {
		uint8_t buffer[256];
		const uint8_t *data = buffer;
		struct message message;
		ssize_t count;
		size_t size;

		if (poll(&control, 1, -1) < 0 && errno != EINTR)
			return;
		count = read(control.fd, buffer, sizeof(buffer));
		if (count == 0 || (count < 0 && errno != EINTR && errno != EAGAIN))
			return;
		size = count > 0 ? (size_t)count : 0;
		while (decode(&decoder, &data, &size, &message) > 0) {
			if (message.type == MESSAGE_END)
				return;
		}
	}
}
