#include "renew.h"

#include <string.h>

#include "identity.h"
#include "moment.h"
#include "network.h"
#include "processes.h"

static int lost(struct failure *why)
{
	return fail(why, STATUS_FAILED, "renew: the host has closed the control port");
}

/* The payload of SPEC: the file's name, a NUL, and bytes of its content. */
static int take_part(const struct message *message, struct failure *why)
{
	const char *name = (const char *)message->payload;
	size_t size = strnlen(name, message->size);

	if (size == message->size)
		return fail(why, STATUS_FAILED, "renew: a message without the name of a file");
	return spec_put(name, name + size + 1, message->size - size - 1, why);
}

/* What a message means whose time is not now. */
static void put_off(const struct channel *channel, const struct message *message)
{
	if (message->type == MESSAGE_EXEC)
		refuse_exec(channel, message, "this VM is to be renewed first");
	else if (message->type == MESSAGE_PING && message->size == sizeof(uint64_t))
		send_pong(channel, get_u64(message->payload));
}

/* Takes messages until one of the type ending, which stays in *message. */
static int take_until(const struct channel *channel, uint32_t ending, struct message *message,
		      struct failure *why)
{
	while (message->type != ending) {
		if (message->type == MESSAGE_SPEC && take_part(message, why) != 0)
			return -1;
		put_off(channel, message);
		if (channel_receive(channel, message) != 0)
			return lost(why);
	}
	return 0;
}

static int take_clock(const struct channel *channel, uint64_t asked, struct failure *why)
{
	struct message message;

	if (channel_receive(channel, &message) != 0)
		return lost(why);
	if (take_until(channel, MESSAGE_CLOCK, &message, why) != 0)
		return -1;
	if (message.size != sizeof(uint64_t))
		return fail(why, STATUS_FAILED, "renew: the host's clock is malformed");
	/* The answer may have lain here for as long as the question is old. */
	return set_clock(get_u64(message.payload) + now() - asked, why);
}

/* Waits for the first word of who has copied the VM. What the host of the template has still sent,
 * as it took the last output, is none. */
static int wait_for_copy(const struct channel *channel, struct message *message)
{
	do {
		if (channel_receive(channel, message) != 0)
			return -1;
	} while (message->type != MESSAGE_SPEC && message->type != MESSAGE_START);
	return 0;
}

int hold_and_renew(const struct channel *channel, struct spec *spec,
		   const struct template *template, struct failure *why)
{
	struct network before = spec->network;
	struct message message;
	uint64_t resumed;

	if (spec_spend_seed(why) != 0)
		return -1;
	if (send_event(channel, now(), "held") != 0 || send_mark(channel) != 0 ||
	    wait_for_copy(channel, &message) != 0)
		return lost(why);
	resumed = now();
	if (send_event(channel, resumed, "resumed") != 0 ||
	    send_hello(channel, template->facts) != 0)
		return lost(why);
	if (take_until(channel, MESSAGE_START, &message, why) != 0 || spec_read(spec, why) != 0 ||
	    identity_take(spec, template->identity, why) != 0 ||
	    network_renew(&before, &spec->network, why) != 0 ||
	    take_clock(channel, resumed, why) != 0)
		return -1;
	spec->hold = HOLD_NOWHERE;
	send_event(channel, now(), "renewed");
	return 0;
}
