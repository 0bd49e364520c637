/* The stream port: what the processes write to the host, what the host gives them to read. */
#ifndef HYPERSTART_STREAM_H
#define HYPERSTART_STREAM_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "channel.h"
#include "failure.h"

enum { FRAME_HEAD = 12, CHUNK = 32768 - FRAME_HEAD };

/* So many bytes may be under way at first, to the host and from it; either side then tells the other
 * how many more as it consumes them. */
enum { OUTPUT_WINDOW = 256 << 10, INPUT_WINDOW = 64 << 10 };

/* The application, and so many more. */
enum { FLOWS_MAX = 33 };

/* Headers of frames from the host as they arrive in pieces; zero at first. */
struct frames {
	uint8_t head[FRAME_HEAD];
	size_t have;       /* bytes of head taken so far */
	uint64_t sequence; /* of the frame whose part or end was found */
	uint32_t left;     /* bytes of the frame's data still to come */
};

enum found { FOUND_NOTHING, FOUND_DATA, FOUND_END, FOUND_NONSENSE };

/* Takes bytes from *data until something is to be done: FOUND_NOTHING when all are taken,
 * FOUND_DATA with a part of a frame's data, FOUND_END for an empty frame. */
enum found frames_take(struct frames *frames, const uint8_t **data, size_t *size,
		       const uint8_t **part, size_t *part_size);

/* What a process writes. */
struct outlet {
	int fd;         /* -1 when nothing will come any more */
	bool has_ended; /* and the host is told */
	uint64_t window;
};

/* What a process is to read, as far as it has not taken it. */
struct inlet {
	int fd; /* -1 once the process takes no more: then everything is dropped */
	bool has_ended;
	size_t start;
	size_t size;
	uint32_t consumed; /* bytes that the host has not been told of */
	uint8_t ring[INPUT_WINDOW];
};

enum { OUTPUT, ERROR };

/* The standard streams of one process. */
struct flow {
	bool is_open;
	bool has_started; /* until then nothing of it is sent */
	bool is_terminal; /* then its input does not end */
	bool is_dead;
	bool is_left_alone; /* once dead: what its pipes do not hold by then is not waited for */
	uint32_t process;
	struct outlet outlets[2];
	struct inlet inlet;
};

/* One frame is held on its way to the host, never more: an outlet is read only when there is no
 * frame left to send and its window is open. What the host sends is always taken, as the windows say
 * how much that can be: so no process waits for another. */
struct stream {
	struct channel *channel;
	uint8_t frame[FRAME_HEAD + CHUNK];
	size_t frame_size;
	size_t frame_sent;
	size_t next; /* whose turn it is, among all outlets */
	struct frames frames;
	size_t count; /* flows above are not open */
	struct flow flows[FLOWS_MAX];
};

/* Our ends of a process's standard files; -1 for one that there is not. */
struct stream_ends {
	int input;
	int output;
	int error;
	bool is_terminal;
};

/* Takes the streams of a process, which is to start, into the flow at index. */
void stream_open(struct stream *stream, size_t index, uint32_t process,
		 const struct stream_ends *ends);

/* Sends from now on. */
void stream_start(struct stream *stream, size_t index);

/* Lets go of them, and of the flow. */
void stream_close(struct stream *stream, size_t index);

enum { STREAM_WATCHED = 1 + 3 * FLOWS_MAX };

/* Fills in the first entries of STREAM_WATCHED with what is waited for; returns how many. */
size_t stream_watch(const struct stream *stream, struct pollfd *watched);

/* Does what can be done without waiting, after poll(2) has filled in the same entries. */
int stream_turn(struct stream *stream, const struct pollfd *watched, struct failure *why);

/* Lets so many bytes more of an output go to the host; one that is not there takes no notice. */
void stream_widen(struct stream *stream, uint64_t sequence, uint32_t size);

/* Makes all windows what they are at first: the host is another one. */
void stream_renew(struct stream *stream);

/* Whether all that the flow's process has written so far is sent; who asks has made it stand still. */
bool stream_is_quiet(const struct stream *stream, size_t index);

/* Whether both of its outputs have ended and all of them is sent. */
bool stream_is_done(const struct stream *stream, size_t index);

#endif
