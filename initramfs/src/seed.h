/* What a machine that has no host to tell it is told by a seed: an ISO as cloud-init's NoCloud and
 * config drive have them, whose directory hyperstart/ holds files of the boot spec. */
#ifndef HYPERSTART_SEED_H
#define HYPERSTART_SEED_H

#include "failure.h"

/* Puts what a seed says into the boot spec; without a seed nothing. */
int seed_take(struct failure *why);

#endif
