/* A VM that is copied: it waits until it is told who it is now (docs/hyperstart.md, "Templates"). */
#ifndef HYPERSTART_RENEW_H
#define HYPERSTART_RENEW_H

#include "channel.h"
#include "failure.h"
#include "spec.h"

/* What stays the same in every copy. */
struct template {
	int identity;      /* the directory of identity_take */
	const char *facts; /* of HELLO */
};

/* Says that the VM is held and waits: for the host to copy it and, in the copy, for a new spec.
 * Takes identity, network and clock from that. */
int hold_and_renew(const struct channel *channel, struct spec *spec,
		   const struct template *template, struct failure *why);

#endif
