/* The containers of the boot spec: one, in which hyperstart itself is; or those of a pod. */
#ifndef HYPERSTART_CONTAINERS_H
#define HYPERSTART_CONTAINERS_H

#include <stdbool.h>

#include "failure.h"
#include "spec.h"

/* Makes all of them, each further one in a mount namespace of its own (its space), and enters the
 * first. *is_dax tells whether all their images are mapped. */
int containers_enter(struct spec *spec, bool *is_dax, struct failure *why);

#endif
