#include "stream.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "channel.h"

enum { PORT, OUTPUT, ERROR, INPUT };

static bool take_head(struct frames *frames, const uint8_t **data, size_t *size)
{
	while (frames->have < FRAME_HEAD && *size > 0) {
		frames->head[frames->have++] = *(*data)++;
		(*size)--;
	}
	if (frames->have < FRAME_HEAD)
		return false;
	frames->have = 0;
	frames->sequence = get_u64(frames->head);
	frames->left = get_u32(frames->head + 8);
	return true;
}

enum found frames_take(struct frames *frames, const uint8_t **data, size_t *size,
		       const uint8_t **part, size_t *part_size)
{
	for (;;) {
		if (frames->left == 0) {
			if (!take_head(frames, data, size))
				return FOUND_NOTHING;
			if (frames->left > PAYLOAD_MAX)
				return FOUND_NONSENSE;
			if (frames->left == 0 && frames->sequence == SEQUENCE_INPUT)
				return FOUND_END;
			continue;
		}
		if (*size == 0)
			return FOUND_NOTHING;
		*part = *data;
		*part_size = frames->left < *size ? frames->left : *size;
		frames->left -= (uint32_t)*part_size;
		*data += *part_size;
		*size -= *part_size;
		if (frames->sequence == SEQUENCE_INPUT)
			return FOUND_DATA;
	}
}

static void shut(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static bool would_wait(ssize_t count)
{
	return count < 0 && (errno == EAGAIN || errno == EINTR);
}

static void send_frame(struct stream *stream)
{
	size_t rest = stream->frame_size - stream->frame_sent;
	ssize_t count = (ssize_t)rest;

	if (rest == 0)
		return;
	/* Output that nobody can take any more is dropped, so that the application goes on. */
	if (stream->port >= 0)
		count = write(stream->port, stream->frame + stream->frame_sent, rest);
	if (would_wait(count))
		return;
	if (count < 0) {
		shut(&stream->port);
		count = (ssize_t)rest;
	}
	stream->frame_sent += (size_t)count;
	if (stream->frame_sent == stream->frame_size)
		stream->frame_size = stream->frame_sent = 0;
}

/* Makes a frame of what a pipe has; an end of file becomes an empty frame. */
static void read_pipe(struct stream *stream, int *pipe, uint64_t sequence)
{
	ssize_t count;

	if (*pipe < 0 || stream->frame_size > 0)
		return;
	count = read(*pipe, stream->frame + FRAME_HEAD, CHUNK);
	if (would_wait(count))
		return;
	if (count <= 0) {
		shut(pipe);
		count = 0;
	}
	put_u64(stream->frame, sequence);
	put_u32(stream->frame + 8, (uint32_t)count);
	stream->frame_size = FRAME_HEAD + (size_t)count;
	stream->error_is_next = sequence == SEQUENCE_OUTPUT;
	send_frame(stream);
}

/* Gives the application what it takes of its input; one that takes no more loses the rest. */
static void give_input(struct stream *stream)
{
	while (stream->part_size > 0) {
		ssize_t count = (ssize_t)stream->part_size;

		if (stream->input >= 0)
			count = write(stream->input, stream->part, stream->part_size);
		if (would_wait(count))
			return;
		if (count < 0) {
			shut(&stream->input);
			continue;
		}
		stream->part += count;
		stream->part_size -= (size_t)count;
	}
}

static int take_apart(struct stream *stream, struct failure *why)
{
	while (stream->part_size == 0) {
		switch (frames_take(&stream->frames, &stream->rest, &stream->rest_size, &stream->part,
				    &stream->part_size)) {
		case FOUND_NOTHING:
			return 0;
		case FOUND_DATA:
			give_input(stream);
			break;
		case FOUND_END:
			shut(&stream->input);
			break;
		case FOUND_NONSENSE:
			return fail(why, STATUS_FAILED, "stream port: a frame over %d bytes",
				    PAYLOAD_MAX);
		}
	}
	return 0;
}

static void read_port(struct stream *stream)
{
	ssize_t count;

	if (stream->port < 0 || stream->part_size > 0)
		return;
	count = read(stream->port, stream->arrived, sizeof(stream->arrived));
	if (would_wait(count))
		return;
	if (count <= 0) {
		shut(&stream->port);
		shut(&stream->input);
		return;
	}
	stream->rest = stream->arrived;
	stream->rest_size = (size_t)count;
}

void stream_watch(const struct stream *stream, struct pollfd *watched)
{
	bool free = stream->frame_size == 0;

	watched[PORT] = (struct pollfd){.fd = stream->port};
	if (stream->part_size == 0)
		watched[PORT].events |= POLLIN;
	if (!free)
		watched[PORT].events |= POLLOUT;
	/* What is not wanted now is left out altogether: a hang-up is told whether asked or not. */
	watched[OUTPUT] = (struct pollfd){.fd = free ? stream->output : -1, .events = POLLIN};
	watched[ERROR] = (struct pollfd){.fd = free ? stream->error : -1, .events = POLLIN};
	watched[INPUT] = (struct pollfd){.fd = stream->input,
					 .events = stream->part_size > 0 ? POLLOUT : 0};
}

int stream_turn(struct stream *stream, const struct pollfd *watched, struct failure *why)
{
	if (watched[INPUT].revents & POLLERR)
		shut(&stream->input);
	give_input(stream);
	if (watched[PORT].revents & (POLLIN | POLLHUP))
		read_port(stream);
	if (take_apart(stream, why) != 0)
		return -1;
	send_frame(stream);
	for (int turn = 0; turn < 2; turn++) {
		if (stream->error_is_next && watched[ERROR].revents)
			read_pipe(stream, &stream->error, SEQUENCE_ERROR);
		else if (watched[OUTPUT].revents)
			read_pipe(stream, &stream->output, SEQUENCE_OUTPUT);
		else
			stream->error_is_next = true;
	}
	return 0;
}

static bool is_empty(int pipe)
{
	int waiting = 0;

	return pipe < 0 || (ioctl(pipe, FIONREAD, &waiting) == 0 && waiting == 0);
}

bool stream_is_quiet(const struct stream *stream)
{
	return stream->frame_size == 0 && is_empty(stream->output) && is_empty(stream->error);
}

bool stream_is_done(const struct stream *stream)
{
	return stream->output < 0 && stream->error < 0 && stream->frame_size == 0;
}
