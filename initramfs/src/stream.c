#include "stream.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

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
	if (frames->left == 0) {
		if (!take_head(frames, data, size))
			return FOUND_NOTHING;
		if (frames->left > PAYLOAD_MAX)
			return FOUND_NONSENSE;
		if (frames->left == 0)
			return FOUND_END;
	}
	if (*size == 0)
		return FOUND_NOTHING;
	*part = *data;
	*part_size = frames->left < *size ? frames->left : *size;
	frames->left -= (uint32_t)*part_size;
	*data += *part_size;
	*size -= *part_size;
	return FOUND_DATA;
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

void stream_open(struct stream *stream, size_t index, uint32_t process,
		 const struct stream_ends *ends)
{
	struct flow *flow = &stream->flows[index];

	flow->is_open = true;
	flow->is_terminal = ends->is_terminal;
	flow->has_started = flow->is_dead = flow->is_left_alone = false;
	flow->process = process;
	flow->outlets[OUTPUT] = (struct outlet){.fd = ends->output, .window = OUTPUT_WINDOW};
	flow->outlets[ERROR] = (struct outlet){.fd = ends->error, .window = OUTPUT_WINDOW};
	flow->inlet.fd = ends->input;
	flow->inlet.has_ended = false;
	flow->inlet.start = flow->inlet.size = flow->inlet.consumed = 0;
	if (index >= stream->count)
		stream->count = index + 1;
}

void stream_start(struct stream *stream, size_t index)
{
	stream->flows[index].has_started = true;
}

void stream_close(struct stream *stream, size_t index)
{
	struct flow *flow = &stream->flows[index];

	shut(&flow->outlets[OUTPUT].fd);
	shut(&flow->outlets[ERROR].fd);
	shut(&flow->inlet.fd);
	flow->is_open = false;
	while (stream->count > 0 && !stream->flows[stream->count - 1].is_open)
		stream->count--;
}

static void send_frame(struct stream *stream)
{
	int *port = &stream->channel->stream;
	size_t rest = stream->frame_size - stream->frame_sent;
	ssize_t count = (ssize_t)rest;

	if (rest == 0)
		return;
	/* Output that nobody can take any more is dropped, so that the processes go on. */
	if (*port >= 0)
		count = write(*port, stream->frame + stream->frame_sent, rest);
	if (would_wait(count))
		return;
	if (count < 0) {
		shut(port);
		count = (ssize_t)rest;
	}
	stream->frame_sent += (size_t)count;
	if (stream->frame_sent == stream->frame_size)
		stream->frame_size = stream->frame_sent = 0;
}

enum state { HAS_DATA, IS_EMPTY, IS_HUNG_UP };

/* A poll, because what was written to a terminal may still be on its way, and this waits for it. */
static enum state state_of(int fd)
{
	struct pollfd asked = {.fd = fd, .events = POLLIN};

	if (fd < 0)
		return IS_HUNG_UP;
	if (poll(&asked, 1, 0) < 0 || asked.revents & POLLIN)
		return HAS_DATA;
	return asked.revents != 0 ? IS_HUNG_UP : IS_EMPTY;
}

/* Whether nothing will come of an outlet that cannot be read for lack of a window. */
static bool is_at_end(const struct flow *flow, const struct outlet *outlet)
{
	enum state state = flow->is_dead ? state_of(outlet->fd) : HAS_DATA;

	return state == IS_HUNG_UP || (state == IS_EMPTY && flow->is_left_alone);
}

static size_t readable_size(const struct stream *stream, const struct outlet *outlet)
{
	if (stream->channel->stream < 0 || outlet->window > CHUNK)
		return CHUNK;
	return (size_t)outlet->window;
}

/* Makes a frame of what an outlet has, if that is anything; an end of file becomes an empty frame. */
static bool read_outlet(struct stream *stream, struct flow *flow, int which)
{
	struct outlet *outlet = &flow->outlets[which];
	size_t size = readable_size(stream, outlet);
	ssize_t count = 0;

	if (outlet->fd >= 0 && size > 0) {
		count = read(outlet->fd, stream->frame + FRAME_HEAD, size);
		if (would_wait(count) && !(flow->is_dead && flow->is_left_alone))
			return false;
	} else if (outlet->fd >= 0 && !is_at_end(flow, outlet)) {
		return false;
	}
	if (count <= 0) {
		shut(&outlet->fd);
		outlet->has_ended = true;
		count = 0;
	}
	outlet->window -= (uint64_t)count < outlet->window ? (uint64_t)count : outlet->window;
	put_u64(stream->frame, 2 * (uint64_t)flow->process + 1 + (uint64_t)which);
	put_u32(stream->frame + 8, (uint32_t)count);
	stream->frame_size = FRAME_HEAD + (size_t)count;
	send_frame(stream);
	return true;
}

/* The outlets take turns. A dead process's are read as far as they hold something: no event tells
 * that they do not. */
static void read_outlets(struct stream *stream, const struct pollfd *watched)
{
	size_t all = 2 * stream->count;

	for (size_t turn = 0; turn < all && stream->frame_size == 0; turn++) {
		size_t index = stream->next++ % all;
		struct flow *flow = &stream->flows[index / 2];
		int which = (int)(index % 2);
		struct outlet *outlet = &flow->outlets[which];
		short told = watched[1 + index / 2 * 3 + index % 2].revents;

		if (!flow->is_open || !flow->has_started || outlet->has_ended ||
		    (told == 0 && !flow->is_dead && outlet->fd >= 0))
			continue;
		while (read_outlet(stream, flow, which) && flow->is_dead && !outlet->has_ended &&
		       stream->frame_size == 0)
			;
	}
}

/* Lets the host send more once half of the window is free: sooner would cost messages. */
static void tell_consumed(struct stream *stream, struct flow *flow)
{
	if (flow->inlet.consumed < INPUT_WINDOW / 2)
		return;
	send_input_window(stream->channel, 2 * (uint64_t)flow->process + 1, flow->inlet.consumed);
	flow->inlet.consumed = 0;
}

/* Gives a process what it takes of its input; one that takes no more loses the rest. */
static void give_input(struct stream *stream, struct flow *flow)
{
	struct inlet *inlet = &flow->inlet;

	while (inlet->size > 0) {
		size_t room = INPUT_WINDOW - inlet->start;
		size_t part = inlet->size < room ? inlet->size : room;
		ssize_t count = (ssize_t)part;

		if (inlet->fd >= 0)
			count = write(inlet->fd, inlet->ring + inlet->start, part);
		if (would_wait(count))
			return;
		if (count < 0) {
			shut(&inlet->fd);
			continue;
		}
		inlet->start = (inlet->start + (size_t)count) % INPUT_WINDOW;
		inlet->size -= (size_t)count;
		inlet->consumed += (uint32_t)count;
		tell_consumed(stream, flow);
	}
	if (inlet->has_ended && !flow->is_terminal)
		shut(&inlet->fd);
}

static int keep_input(struct inlet *inlet, const uint8_t *data, size_t size)
{
	if (inlet->size + inlet->consumed + size > INPUT_WINDOW)
		return -1;
	while (size > 0) {
		size_t end = (inlet->start + inlet->size) % INPUT_WINDOW;
		size_t room = INPUT_WINDOW - end;
		size_t part = size < room ? size : room;

		memcpy(inlet->ring + end, data, part);
		inlet->size += part;
		data += part;
		size -= part;
	}
	return 0;
}

/* The flow whose input has that sequence; NULL if there is none. */
static struct flow *find_input(struct stream *stream, uint64_t sequence)
{
	for (size_t i = 0; sequence % 2 == 1 && i < stream->count; i++) {
		struct flow *flow = &stream->flows[i];

		if (flow->is_open && flow->process == (sequence - 1) / 2)
			return flow;
	}
	return NULL;
}

static int take_apart(struct stream *stream, const uint8_t *data, size_t size, struct failure *why)
{
	const uint8_t *part;
	size_t part_size;
	enum found found;

	while ((found = frames_take(&stream->frames, &data, &size, &part, &part_size)) !=
	       FOUND_NOTHING) {
		struct flow *flow = find_input(stream, stream->frames.sequence);

		if (found == FOUND_NONSENSE)
			return fail(why, STATUS_FAILED, "stream port: a frame over %d bytes",
				    PAYLOAD_MAX);
		if (flow == NULL)
			continue;
		if (found == FOUND_END)
			flow->inlet.has_ended = true;
		else if (keep_input(&flow->inlet, part, part_size) != 0)
			return fail(why, STATUS_FAILED,
				    "stream port: input of process %u beyond its window",
				    flow->process);
		give_input(stream, flow);
	}
	return 0;
}

static int read_port(struct stream *stream, struct failure *why)
{
	static uint8_t arrived[CHUNK];
	ssize_t count = read(stream->channel->stream, arrived, sizeof(arrived));

	if (would_wait(count))
		return 0;
	if (count > 0)
		return take_apart(stream, arrived, (size_t)count, why);
	shut(&stream->channel->stream);
	for (size_t i = 0; i < stream->count; i++)
		shut(&stream->flows[i].inlet.fd);
	return 0;
}

static struct pollfd watched_outlet(const struct stream *stream, const struct outlet *outlet)
{
	bool is_wanted = stream->frame_size == 0 && readable_size(stream, outlet) > 0;

	/* What is not wanted now is left out altogether: a hang-up is told whether asked or not. */
	return (struct pollfd){.fd = is_wanted ? outlet->fd : -1, .events = POLLIN};
}

size_t stream_watch(const struct stream *stream, struct pollfd *watched)
{
	size_t count = 0;

	watched[count] = (struct pollfd){.fd = stream->channel->stream, .events = POLLIN};
	if (stream->frame_size > 0)
		watched[count].events |= POLLOUT;
	count++;
	for (size_t i = 0; i < stream->count; i++) {
		const struct flow *flow = &stream->flows[i];
		bool has_input = flow->is_open && flow->inlet.size > 0;

		watched[count++] = flow->is_open ? watched_outlet(stream, &flow->outlets[OUTPUT])
						 : (struct pollfd){.fd = -1};
		watched[count++] = flow->is_open ? watched_outlet(stream, &flow->outlets[ERROR])
						 : (struct pollfd){.fd = -1};
		watched[count++] = (struct pollfd){.fd = has_input ? flow->inlet.fd : -1,
						   .events = POLLOUT};
	}
	return count;
}

int stream_turn(struct stream *stream, const struct pollfd *watched, struct failure *why)
{
	for (size_t i = 0; i < stream->count; i++) {
		if (stream->flows[i].is_open && watched[1 + 3 * i + 2].revents)
			give_input(stream, &stream->flows[i]);
	}
	if (stream->channel->stream >= 0 && watched[0].revents & (POLLIN | POLLHUP) &&
	    read_port(stream, why) != 0)
		return -1;
	send_frame(stream);
	read_outlets(stream, watched);
	return 0;
}

void stream_widen(struct stream *stream, uint64_t sequence, uint32_t size)
{
	for (size_t i = 0; sequence > 0 && i < stream->count; i++) {
		struct flow *flow = &stream->flows[i];

		if (flow->is_open && flow->process == (sequence - 1) / 2)
			flow->outlets[(sequence - 1) % 2].window += size;
	}
}

void stream_renew(struct stream *stream)
{
	for (size_t i = 0; i < stream->count; i++) {
		stream->flows[i].outlets[OUTPUT].window = OUTPUT_WINDOW;
		stream->flows[i].outlets[ERROR].window = OUTPUT_WINDOW;
		stream->flows[i].inlet.consumed = 0;
	}
}

bool stream_is_quiet(const struct stream *stream, size_t index)
{
	const struct outlet *outlets = stream->flows[index].outlets;

	return stream->frame_size == 0 && state_of(outlets[OUTPUT].fd) != HAS_DATA &&
	       state_of(outlets[ERROR].fd) != HAS_DATA;
}

bool stream_is_done(const struct stream *stream, size_t index)
{
	const struct outlet *outlets = stream->flows[index].outlets;

	return outlets[OUTPUT].has_ended && outlets[ERROR].has_ended && stream->frame_size == 0;
}
