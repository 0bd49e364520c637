/* What makes a VM another than its siblings: random numbers, time, names, the files in /etc. */
#ifndef HYPERSTART_IDENTITY_H
#define HYPERSTART_IDENTITY_H

#include <stddef.h>
#include <stdint.h>

#include "failure.h"
#include "spec.h"

/* Sets the clock to so many nanoseconds since the epoch. */
int set_clock(uint64_t moment, struct failure *why);

/* Mixes size bytes (at most SEED_MAX) into the kernel's random numbers, which come from them too from
 * then on. */
int reseed(const void *seed, size_t size, struct failure *why);

/* Takes the spec's identity: reseeds the kernel's random numbers, sets the host name, and writes
 * hosts, hostname, machine-id and resolv.conf into directory. What is bound over those files (see
 * rootfs.h) shows the new content. May be called again. */
int identity_take(const struct spec *spec, int directory, struct failure *why);

#endif
