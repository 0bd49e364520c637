/* The stream port: the application's output to the host, the host's input to the application. */
#ifndef HYPERSTART_STREAM_H
#define HYPERSTART_STREAM_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "failure.h"

enum { FRAME_HEAD = 12, CHUNK = 32768 - FRAME_HEAD };
enum { SEQUENCE_OUTPUT = 1, SEQUENCE_ERROR = 2, SEQUENCE_INPUT = 1 };

/* Headers of frames from the host as they arrive in pieces; zero at first. */
struct frames {
	uint8_t head[FRAME_HEAD];
	size_t have;       /* bytes of head taken so far */
	uint64_t sequence;
	uint32_t left;     /* bytes of the frame's data still to come */
};

enum found { FOUND_NOTHING, FOUND_DATA, FOUND_END, FOUND_NONSENSE };

/* Takes bytes from *data until something is to be done: FOUND_NOTHING when all are taken,
 * FOUND_DATA with the part that is standard input, FOUND_END when that ends. */
enum found frames_take(struct frames *frames, const uint8_t **data, size_t *size,
		       const uint8_t **part, size_t *part_size);

/* One frame each way is held, never more: a pipe is read only when there is no frame left to send,
 * the port only when the application has taken the last input. So the slower side sets the pace. */
struct stream {
	int port;   /* -1 once the host has closed it */
	int output; /* the application's pipes, -1 once they have ended */
	int error;
	int input;
	bool error_is_next; /* the pipes take turns */
	uint8_t frame[FRAME_HEAD + CHUNK];
	size_t frame_size;
	size_t frame_sent;
	struct frames frames;
	uint8_t arrived[CHUNK];
	const uint8_t *rest; /* of what arrived, not yet taken apart */
	size_t rest_size;
	const uint8_t *part; /* of the rest, not yet given to the application */
	size_t part_size;
};

enum { STREAM_WATCHED = 4 };

/* Fills in STREAM_WATCHED entries with what the stream waits for. */
void stream_watch(const struct stream *stream, struct pollfd *watched);

/* Does what can be done without waiting, after poll(2) has filled in the same entries. */
int stream_turn(struct stream *stream, const struct pollfd *watched, struct failure *why);

/* Whether all that the application has written so far is sent; who asks has made it stand still. */
bool stream_is_quiet(const struct stream *stream);

/* Whether both outputs have ended and all of them is sent. */
bool stream_is_done(const struct stream *stream);

#endif
