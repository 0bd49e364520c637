/* hyperstart while the application runs: its output out, orders in, the dead buried. */
#ifndef HYPERSTART_SUPERVISE_H
#define HYPERSTART_SUPERVISE_H

#include <signal.h>

#include "channel.h"
#include "failure.h"
#include "processes.h"
#include "renew.h"
#include "spec.h"

/* Blocks the signals that supervise reads from signals_fd: before the application is started, so
 * that none is missed. Returns the descriptor, -1 on failure. */
int signals_open(void);

/* Runs until the application, which was started at that moment, has ended and all its output is sent.
 * *status is its exit status, 128+N for death by signal N. A VM that is to be held when its application
 * is healthy takes a new spec then. A port that the host closes becomes -1 in the channel. */
int supervise(struct processes *processes, const struct template *template, int signals_fd,
	      uint64_t started, uint32_t *status, struct failure *why);

/* Waits until the host has closed one of the ports: it has read everything, or is gone. */
void wait_for_host(const struct channel *channel);

#endif
