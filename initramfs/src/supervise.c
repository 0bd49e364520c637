#include "supervise.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "button.h"
#include "freezer.h"
#include "health.h"
#include "identity.h"
#include "listening.h"
#include "moment.h"
#include "stream.h"

enum { SIGNALS, CONTROL, TIMER, LISTENING, HEALTH, BUTTON, PROCESSES };
enum { WATCHED = PROCESSES + PROCESSES_WATCHED };

/* The grace that an application is given when the host has gone without a word, or the power button
 * was pressed. */
enum { ORPHAN_GRACE_MILLISECONDS = 10000 };

struct supervisor {
	struct channel *channel;
	struct processes *processes;
	struct decoder decoder;
	int signals;
	int timer;
	int button; /* -1 where a host is there to say more */
	struct listening listening;
	struct health health;
	struct spec *spec;
	const struct template *template;
	bool is_to_be_held; /* what is waited for has come */
};

static bool is_alive(const struct supervisor *self)
{
	return self->processes->list[APPLICATION].is_alive;
}

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
	if (change == HEALTH_SAME || !is_alive(self))
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
		bool was_alive = is_alive(self);

		if (pid == self->health.pid)
			tell_health(self, health_judge(&self->health, status));
		processes_bury(self->processes, pid, status);
		if (!was_alive || is_alive(self))
			continue;
		health_stop(&self->health);
		/* What it leaves behind ends with it, as in a container, and lets go of the pipes. */
		kill(-1, SIGKILL);
	}
}

static void stop(struct supervisor *self, uint32_t grace)
{
	if (spec_is_pod(self->spec))
		processes_end_pod(self->processes);
	else if (is_alive(self))
		processes_signal(self->processes, APPLICATION, (int)self->spec->stop_signal);
	else
		return;
	timer_arm(self->timer, grace);
}

/* What is of no use is skipped: that a seed or a time was not taken is no reason to end. */
static void obey(struct supervisor *self, const struct message *message)
{
	const char *payload = message->payload;
	const struct terminal_size size = {get_u16(payload + 4), get_u16(payload + 6)};
	struct failure ignored;

	if (message->type == MESSAGE_EXEC && message->size >= 4)
		processes_exec(self->processes, message);
	else if (message->type == MESSAGE_SIGNAL && message->size == 8 &&
		 get_u32(payload) < (uint32_t)NSIG)
		processes_signal(self->processes, get_u32(payload + 4), (int)get_u32(payload));
	else if (message->type == MESSAGE_STOP && message->size == 4)
		stop(self, get_u32(payload));
	else if (message->type == MESSAGE_RESIZE && message->size == 8)
		processes_resize(self->processes, get_u32(payload), &size);
	else if (message->type == MESSAGE_OUTPUT_WINDOW && message->size == 12)
		stream_widen(&self->processes->stream, get_u64(payload), get_u32(payload + 8));
	else if (message->type == MESSAGE_PING && message->size == 8)
		send_pong(self->channel, get_u64(payload));
	else if (message->type == MESSAGE_CLOCK && message->size == 8)
		set_clock(get_u64(payload), &ignored);
	else if (message->type == MESSAGE_CLEAR && message->size == 4)
		processes_clear(self->processes, get_u32(payload));
	else if (message->type == MESSAGE_RESEED && message->size > 0 && message->size <= SEED_MAX)
		reseed(payload, message->size, &ignored);
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

	if (read(self->timer, &expirations, sizeof(expirations)) <= 0)
		return;
	if (spec_is_pod(self->spec))
		kill(-1, SIGKILL);
	else
		processes_signal(self->processes, APPLICATION, SIGKILL);
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
	struct pollfd watched[WATCHED];
	nfds_t count = PROCESSES + processes_watch(self->processes, watched + PROCESSES);

	watched[SIGNALS] = (struct pollfd){.fd = self->signals, .events = POLLIN};
	watched[CONTROL] = (struct pollfd){.fd = self->channel->control, .events = POLLIN};
	watched[TIMER] = (struct pollfd){.fd = self->timer, .events = POLLIN};
	watched[LISTENING] = (struct pollfd){.fd = self->listening.timer, .events = POLLIN};
	watched[HEALTH] = (struct pollfd){.fd = self->health.timer, .events = POLLIN};
	watched[BUTTON] = (struct pollfd){.fd = self->button, .events = POLLIN};
	if (poll(watched, count, -1) < 0)
		return errno == EINTR ? 0 : fail(why, STATUS_FAILED, "poll: %s", strerror(errno));
	if (watched[SIGNALS].revents)
		bury(self);
	if (watched[TIMER].revents)
		grace_is_over(self);
	if (watched[LISTENING].revents)
		look_for_listener(self);
	if (watched[HEALTH].revents)
		health_turn(&self->health);
	if (watched[BUTTON].revents && button_is_pressed(self->button))
		stop(self, ORPHAN_GRACE_MILLISECONDS);
	if (watched[CONTROL].revents && hear(self, why) != 0)
		return -1;
	return processes_turn(self->processes, watched + PROCESSES, why);
}

/* Nothing of the application runs from before the VM is copied until the copy has its identity. */
static int hold(struct supervisor *self, struct failure *why)
{
	self->is_to_be_held = false;
	if (freezer_set(true) != 0)
		return fail(why, STATUS_FAILED, "freeze the application: %s", strerror(errno));
	/* Half a message would be taken for the beginning of the next host's first. */
	while (!stream_is_quiet(&self->processes->stream, APPLICATION) || self->decoder.have > 0) {
		if (turn(self, why) != 0)
			return -1;
	}
	if (hold_and_renew(self->channel, self->spec, self->template, why) != 0)
		return -1;
	if (self->spec->has_terminal)
		return fail(why, STATUS_FAILED, "renew: tty is not for what runs already");
	spec_forget();
	stream_renew(&self->processes->stream);
	if (freezer_set(false) != 0)
		return fail(why, STATUS_FAILED, "thaw the application: %s", strerror(errno));
	return watch_health(self, now(), why) != 0 ? -1 : watch_listening(self, now(), why);
}

int supervise(struct processes *processes, const struct template *template, int signals_fd,
	      uint64_t started, uint32_t *status, struct failure *why)
{
	static struct supervisor self;

	self.timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (self.timer < 0)
		return fail(why, STATUS_FAILED, "timerfd: %s", strerror(errno));
	self.channel = processes->channel;
	self.processes = processes;
	self.signals = signals_fd;
	self.spec = processes->spec;
	self.template = template;
	self.listening.timer = -1;
	self.health.timer = -1;
	self.button = self.spec->is_alone ? button_open() : -1;
	if (watch_health(&self, started, why) != 0 || watch_listening(&self, started, why) != 0)
		return -1;
	while (!processes_are_over(processes)) {
		if (turn(&self, why) != 0 || (self.is_to_be_held && hold(&self, why) != 0))
			return -1;
	}
	*status = processes->list[APPLICATION].status;
	return 0;
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
