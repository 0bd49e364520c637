/* One interface with a static address, by rtnetlink(7): nothing is asked for, nothing waited for. */
#ifndef HYPERSTART_NETWORK_H
#define HYPERSTART_NETWORK_H

#include <stddef.h>
#include <stdint.h>

#include "failure.h"
#include "parse.h"

enum { REQUEST_MAX = 128 };

/* Which of an address's two requests. */
enum address_change { ADDRESS_NEW, ADDRESS_GONE };

/* Each writes one request into buffer (REQUEST_MAX bytes, aligned for nlmsghdr), returns its size. */
size_t request_link_up(void *buffer, int index);
size_t request_address(void *buffer, int index, const struct network *network,
		       enum address_change change);
size_t request_mac(void *buffer, int index, const struct network *network);
size_t request_gateway(void *buffer, int index, const struct network *network);

/* Brings the loopback up, and the first other interface as network says. */
int network_up(const struct network *network, struct failure *why);

/* Gives the interface, which is as before says, what after says: MAC, address, gateway. */
int network_renew(const struct network *before, const struct network *after, struct failure *why);

#endif
