/* The two virtio-serial ports to the launcher (docs/hyperstart.md, "Ports"). */
#ifndef HYPERSTART_CHANNEL_H
#define HYPERSTART_CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "failure.h"

enum { PROTOCOL_VERSION = 5, PAYLOAD_MAX = 65536 };

enum message_type {
	MESSAGE_HELLO = 1,
	MESSAGE_EVENT = 2,
	MESSAGE_EXIT = 3,
	MESSAGE_ERROR = 4,
	MESSAGE_STARTED = 5,
	MESSAGE_ENDED = 6,
	MESSAGE_REFUSED = 7,
	MESSAGE_INPUT_WINDOW = 8,
	MESSAGE_PONG = 9,
	MESSAGE_SIGNAL = 16,
	MESSAGE_STOP = 17,
	MESSAGE_SPEC = 18,
	MESSAGE_START = 19,
	MESSAGE_CLOCK = 20,
	MESSAGE_EXEC = 21,
	MESSAGE_RESIZE = 22,
	MESSAGE_OUTPUT_WINDOW = 23,
	MESSAGE_PING = 24,
	MESSAGE_RESEED = 25,
	MESSAGE_CLEAR = 26,
};

struct channel {
	int control; /* -1 while there is none, or once the host has closed it */
	int stream;  /* likewise */
};

/* Opens the ports, which may still be on their way. What could be opened stays so on failure. */
int channel_open(struct channel *channel, struct failure *why);

/* The senders do nothing without a control port. They return -1 if the host is gone. */
int send_hello(const struct channel *channel, const char *facts);
int send_event(const struct channel *channel, uint64_t nanoseconds, const char *name);
int send_exit(const struct channel *channel, uint32_t status);
int send_error(const struct channel *channel, const struct failure *why);
int send_started(const struct channel *channel, uint32_t process);
int send_ended(const struct channel *channel, uint32_t process, uint32_t status);
int send_refused(const struct channel *channel, uint32_t process, const struct failure *why);
int send_input_window(const struct channel *channel, uint64_t sequence, uint32_t size);
int send_pong(const struct channel *channel, uint64_t token);

/* Sends both ends of the application's output, where there is no application. */
int send_ends(const struct channel *channel);

/* Sends the stream's mark: what the host reads behind it was sent after it. */
int send_mark(const struct channel *channel);

/* Messages from the host as they arrive in pieces. */
struct decoder {
	uint8_t head[8];
	size_t have; /* bytes of head and payload taken so far */
	uint8_t payload[PAYLOAD_MAX + 1];
};

/* The payload has a NUL behind it, and zeros where it is shorter than PAYLOAD_LEAST. */
enum { PAYLOAD_LEAST = 16 };

struct message {
	uint32_t type;
	uint32_t size;
	char *payload; /* until the next message; may be written to */
};

/* Takes bytes from *data; returns 1 with a message, 0 when all are taken, -1 for nonsense. */
int decode(struct decoder *decoder, const uint8_t **data, size_t *size, struct message *message);

/* Waits for one message, whole: its payload is good until the next call. For when nothing else goes
 * on: whoever decodes pieces must have taken all that came before. -1 if the host is gone. */
int channel_receive(const struct channel *channel, struct message *message);

void put_u32(uint8_t *to, uint32_t value);
void put_u64(uint8_t *to, uint64_t value);
uint16_t get_u16(const void *from);
uint32_t get_u32(const void *from);
uint64_t get_u64(const void *from);

#endif
