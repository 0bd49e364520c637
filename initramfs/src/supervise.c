#include "supervise.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "freezer.h"
#include "health.h"
#include "listening.h"
#include "moment.h"
#include "stream.h"

enum { SIGNALS, CONTROL, TIMER, LISTENING, HEALTH, STREAM, WATCHED = STREAM + STREAM_WATCHED };

/* The grace that an application is given when the host has gone without a word. */
enum { ORPHAN_GRACE_MILLISECONDS = 10000 };

struct supervisor {
	struct channel *channel;
	struct stream stream;
	struct decoder decoder;
	int signals;
	int timer;
	struct listening listening;
	struct health health;
	struct spec *spec;
	const struct template *template;
	bool is_to_be_held; /* what is waited for has come */
	pid_t pid; /* 0 once the application is dead */
	uint32_t status;
};

int signals_open(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGPIPE);
	if (sigprocmask(SIG_BLOCK, &set, NULL) != 0)
		return -1;
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void tell_health(struct supervisor *self, enum health_change change)
{
	if (change == HEALTH_SAME || self->pid == 0)
		return;
	send_event(self->channel, now(), change == HEALTH_BETTER ? "healthy" : "unhealthy");
	self->is_to_be_held |= change == HEALTH_BETTER && self->spec->hold == HOLD_WHEN_HEALTHY;
}

static void bury(struct supervisor *self)
{
	struct signalfd_siginfo info;
	pid_t pid;
	int status;

	while (read(self->signals, &info, sizeof(info)) > 0)
		;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid == self->health.pid)
			tell_health(self, health_judge(&self->health, status));
		if (pid != self->pid)
			continue;
		health_stop(&self->health);
		self->pid = 0;
		self->status = WIFSIGNALED(status) ? 128 + (uint32_t)WTERMSIG(status)
						   : (uint32_t)WEXITSTATUS(status);
		/* What it leaves behind ends with it, as in a container, and lets go of the pipes. */
		kill(-1, SIGKILL);
	}
}

static void stop(struct supervisor *self, uint32_t grace)
{
	if (self->pid == 0)
		return;
	kill(self->pid, (int)self->spec->stop_signal);
	timer_arm(self->timer, grace);
}

static void obey(struct supervisor *self, const struct message *message)
{
	uint32_t number = get_u32(message->payload);

	if (self->pid == 0 || message->size != 4)
		return;
	if (message->type == MESSAGE_SIGNAL && number < (uint32_t)NSIG)
		kill(self->pid, (int)number);
	else if (message->type == MESSAGE_STOP)
		stop(self, number);
}

static int hear(struct supervisor *self, struct failure *why)
{
	uint8_t buffer[4096];
	const uint8_t *data = buffer;
	struct message message;
	ssize_t count = read(self->channel->control, buffer, sizeof(buffer));
	size_t size = count > 0 ? (size_t)count : 0;
	int found;

	if (count == 0 || (count < 0 && errno != EINTR && errno != EAGAIN)) {
		close(self->channel->control);
		self->channel->control = -1;
		stop(self, ORPHAN_GRACE_MILLISECONDS);
		return 0;
	}
	while ((found = decode(&self->decoder, &data, &size, &message)) > 0)
		obey(self, &message);
	return found == 0 ? 0 : fail(why, STATUS_FAILED, "control port: a message over %d bytes",
				     PAYLOAD_MAX);
}

static void grace_is_over(struct supervisor *self)
{
	uint64_t expirations;

	if (read(self->timer, &expirations, sizeof(expirations)) > 0 && self->pid != 0)
		kill(self->pid, SIGKILL);
}

static void look_for_listener(struct supervisor *self)
{
	const struct listening *listening = &self->listening;
	uint64_t moment = now();
	size_t found = listening_look(&self->listening);
	char name[32];

	if (found == 0)
		return;
	if (found == listening->known)
		send_event(self->channel, moment, "listening");
	self->is_to_be_held |= self->spec->hold == HOLD_WHEN_LISTENING;
	for (size_t i = listening->known - found; listening->is_for_all && i < listening->known; i++) {
		const struct listener *one = &listening->listeners[i];

		snprintf(name, sizeof(name), "%s %u", one->is_loopback ? "loopback" : "port", one->port);
		send_event(self->channel, moment, name);
	}
}

static int watch_listening(struct supervisor *self, uint64_t since, struct failure *why)
{
	const struct spec *spec = self->spec;
	bool is_wanted = spec->is_watched || spec->hold == HOLD_WHEN_LISTENING;

	if (is_wanted && self->listening.timer < 0 &&
	    listening_start(&self->listening, since, spec->are_ports_watched) != 0)
		return fail(why, STATUS_FAILED, "timerfd: %s", strerror(errno));
	return 0;
}

static int watch_health(struct supervisor *self, uint64_t since, struct failure *why)
{
	/* A check that runs is judged by the spec that there is then. */
	if (self->health.pid != 0)
		return 0;
	health_stop(&self->health);
	if (health_start(&self->health, self->spec, since) != 0)
		return fail(why, STATUS_FAILED, "timerfd: %s", strerror(errno));
	return 0;
}

static int turn(struct supervisor *self, struct failure *why)
{
	struct pollfd watched[WATCHED] = {
		[SIGNALS] = {.fd = self->signals, .events = POLLIN},
		[CONTROL] = {.fd = self->channel->control, .events = POLLIN},
		[TIMER] = {.fd = self->timer, .events = POLLIN},
		[LISTENING] = {.fd = self->listening.timer, .events = POLLIN},
		[HEALTH] = {.fd = self->health.timer, .events = POLLIN},
	};

	stream_watch(&self->stream, watched + STREAM);
	if (poll(watched, WATCHED, -1) < 0)
		return errno == EINTR ? 0 : fail(why, STATUS_FAILED, "poll: %s", strerror(errno));
	if (watched[SIGNALS].revents)
		bury(self);
	if (watched[TIMER].revents)
		grace_is_over(self);
	if (watched[LISTENING].revents)
		look_for_listener(self);
	if (watched[HEALTH].revents)
		health_turn(&self->health);
	if (watched[CONTROL].revents && hear(self, why) != 0)
		return -1;
	return stream_turn(&self->stream, watched + STREAM, why);
}

/* Nothing of the application runs from before the VM is copied until the copy has its identity. */
static int hold(struct supervisor *self, struct failure *why)
{
	self->is_to_be_held = false;
	if (freezer_set(true) != 0)
		return fail(why, STATUS_FAILED, "freeze the application: %s", strerror(errno));
	while (!stream_is_quiet(&self->stream)) {
		if (turn(self, why) != 0)
			return -1;
	}
	if (hold_and_renew(self->channel, self->spec, self->template, why) != 0)
		return -1;
	spec_forget();
	if (freezer_set(false) != 0)
		return fail(why, STATUS_FAILED, "thaw the application: %s", strerror(errno));
	return watch_health(self, now(), why) != 0 ? -1 : watch_listening(self, now(), why);
}

int supervise(struct channel *channel, const struct process *process, struct spec *spec,
	      const struct template *template, int signals_fd, uint32_t *status,
	      struct failure *why)
{
	static struct supervisor self;

	self.timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (self.timer < 0)
		return fail(why, STATUS_FAILED, "timerfd: %s", strerror(errno));
	self.channel = channel;
	self.signals = signals_fd;
	self.pid = process->pid;
	self.spec = spec;
	self.template = template;
	self.listening.timer = -1;
	self.health.timer = -1;
	if (watch_health(&self, process->executed, why) != 0 ||
	    watch_listening(&self, process->executed, why) != 0)
		return -1;
	self.stream.port = channel->stream;
	self.stream.input = process->input;
	self.stream.output = process->output;
	self.stream.error = process->error;
	while (self.pid != 0 || !stream_is_done(&self.stream)) {
		if (turn(&self, why) != 0 || (self.is_to_be_held && hold(&self, why) != 0))
			break;
	}
	/* The port may have been closed on the way. */
	channel->stream = self.stream.port;
	*status = self.status;
	return why->status == 0 ? 0 : -1;
}

void wait_for_host(const struct channel *channel)
{
	/* No events are asked for: what is told then is the end of a port alone. */
	struct pollfd ports[] = {{.fd = channel->control}, {.fd = channel->stream}};

	if (channel->control < 0 || channel->stream < 0)
		return;
	while (poll(ports, 2, -1) < 0 && errno == EINTR)
		;
}
