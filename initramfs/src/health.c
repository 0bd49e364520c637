#include "health.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "moment.h"
#include "process.h"

/* An application whose health is waited for is asked more often than its image says until it is
 * healthy, at intervals that are a share of the time waited: its first success is told early, a slow
 * start not made slower. */
enum { FIRST_LOOK = 50, SHARE_OF_WAIT = 8, MILLISECOND = 1000000 };

static void arm_next(const struct health *health)
{
	const struct health_times *times = &health->spec->health_times;
	bool is_awaited = health->spec->is_watched || health->spec->hold == HOLD_WHEN_HEALTHY;
	bool is_starting = !health->is_healthy && !health->is_unhealthy;
	uint64_t waited = (now() - health->started) / MILLISECOND;
	uint64_t share = waited / SHARE_OF_WAIT;
	uint64_t wait = is_starting && waited < times->start_period ? times->start_interval
								    : times->interval;

	if (is_awaited && is_starting) {
		share = share < FIRST_LOOK ? FIRST_LOOK : share;
		wait = share < wait ? share : wait;
	}
	timer_arm(health->timer, wait);
}

int health_start(struct health *health, const struct spec *spec, uint64_t started)
{
	*health = (struct health){.spec = spec, .timer = -1, .started = started, .counted = started};
	if (spec->health[0] == NULL)
		return 0;
	health->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (health->timer < 0)
		return -1;
	arm_next(health);
	return 0;
}

__attribute__((noreturn))
static void run_check(const struct spec *spec)
{
	int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
	const struct standard files = {nothing, nothing, nothing, -1};
	const struct command command = {
		.user = &spec->containers[0].user,
		.cwd = spec->containers[0].cwd,
		.environ = spec->containers[0].environ,
		.argv = spec->health,
		.space = -1,
	};

	if (nothing < 0)
		_exit(STATUS_FAILED);
	process_become(&command, &files, -1);
}

void health_turn(struct health *health)
{
	uint64_t expirations;

	if (read(health->timer, &expirations, sizeof(expirations)) <= 0)
		return;
	if (health->pid > 0) {
		kill(-health->pid, SIGKILL);
		kill(health->pid, SIGKILL);
		return;
	}
	health->pid = fork();
	if (health->pid == 0)
		run_check(health->spec);
	if (health->pid < 0) {
		health->pid = 0;
		arm_next(health);
		return;
	}
	timer_arm(health->timer, health->spec->health_times.timeout);
}

/* Failures are counted at the image's own pace, and not while it says that it starts. */
static bool counts(const struct health *health, uint64_t moment)
{
	const struct health_times *times = &health->spec->health_times;

	return moment - health->started >= times->start_period * MILLISECOND &&
	       moment - health->counted >= times->interval * MILLISECOND;
}

enum health_change health_judge(struct health *health, int status)
{
	bool is_success = WIFEXITED(status) && WEXITSTATUS(status) == 0;
	uint64_t moment = now();
	enum health_change change = HEALTH_SAME;

	health->pid = 0;
	if (is_success) {
		change = health->is_healthy ? HEALTH_SAME : HEALTH_BETTER;
		health->is_healthy = true;
		health->is_unhealthy = false;
		health->failures = 0;
	} else if (health->is_healthy || counts(health, moment)) {
		health->counted = moment;
		health->failures++;
		if (!health->is_unhealthy && health->failures >= health->spec->health_times.retries) {
			change = HEALTH_WORSE;
			health->is_healthy = false;
			health->is_unhealthy = true;
		}
	}
	arm_next(health);
	return change;
}

void health_stop(struct health *health)
{
	if (health->timer >= 0)
		close(health->timer);
	health->timer = -1;
}
