#include "channel.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "stream.h"
#include "uevent.h"

#define PORTS "/sys/class/virtio-ports"
#define CONTROL_NAME "sh.hyper.channel.0"
#define STREAM_NAME "sh.hyper.channel.1"

enum { WAIT_MILLISECONDS = 5000 };

void put_u32(uint8_t *to, uint32_t value)
{
	for (int i = 3; i >= 0; i--, value >>= 8)
		to[i] = (uint8_t)value;
}

void put_u64(uint8_t *to, uint64_t value)
{
	put_u32(to, (uint32_t)(value >> 32));
	put_u32(to + 4, (uint32_t)value);
}

uint16_t get_u16(const void *from)
{
	const uint8_t *byte = from;

	return (uint16_t)(byte[0] << 8 | byte[1]);
}

uint32_t get_u32(const void *from)
{
	return (uint32_t)get_u16(from) << 16 | get_u16((const uint8_t *)from + 2);
}

uint64_t get_u64(const void *from)
{
	return (uint64_t)get_u32(from) << 32 | get_u32((const uint8_t *)from + 4);
}

static bool port_is_called(const char *port, const char *wanted)
{
	char path[320];
	char name[64];
	ssize_t size;
	int fd;

	snprintf(path, sizeof(path), PORTS "/%.255s/name", port);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	size = read(fd, name, sizeof(name) - 1);
	close(fd);
	if (size <= 0)
		return false;
	name[size] = '\0';
	name[strcspn(name, "\n")] = '\0';
	return strcmp(name, wanted) == 0;
}

static int open_port(const char *port)
{
	char path[320];

	snprintf(path, sizeof(path), "/dev/%.255s", port);
	return open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
}

/* Opens what is there and not open yet; whether both are open now. */
static bool find_ports(void *subject)
{
	struct channel *channel = subject;
	struct dirent *entry;
	DIR *directory = opendir(PORTS);

	if (directory == NULL)
		return false;
	while ((entry = readdir(directory)) != NULL) {
		if (entry->d_name[0] == '.')
			continue;
		if (channel->control < 0 && port_is_called(entry->d_name, CONTROL_NAME))
			channel->control = open_port(entry->d_name);
		else if (channel->stream < 0 && port_is_called(entry->d_name, STREAM_NAME))
			channel->stream = open_port(entry->d_name);
	}
	closedir(directory);
	return channel->control >= 0 && channel->stream >= 0;
}

/* Waits until the host's end is open. The driver tells it only by waking up who polls, and a poll
 * would return at once for the hang-up that there is until then: hence edges. */
static int wait_connected(int port)
{
	struct epoll_event event = {.events = EPOLLOUT | EPOLLET};
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	bool is_connected = false;

	if (epoll < 0)
		return -1;
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, port, &event) == 0) {
		while (!is_connected && epoll_wait(epoll, &event, 1, WAIT_MILLISECONDS) == 1)
			is_connected = (event.events & EPOLLHUP) == 0;
	}
	close(epoll);
	return is_connected ? 0 : -1;
}

int channel_open(struct channel *channel, struct failure *why)
{
	if (wait_for_device(find_ports, channel, WAIT_MILLISECONDS) != 0)
		return fail(why, STATUS_FAILED, "virtio-serial ports %s and %s: %s", CONTROL_NAME,
			    STREAM_NAME, strerror(errno));
	if (wait_connected(channel->control) != 0 || wait_connected(channel->stream) != 0)
		return fail(why, STATUS_FAILED, "virtio-serial ports: no host at the other end");
	return 0;
}

/* Waits until the port takes more; -1 if the host has closed it. */
static int wait_writable(int port)
{
	struct pollfd watched = {.fd = port, .events = POLLOUT};

	if (poll(&watched, 1, -1) < 0)
		return errno == EINTR ? 0 : -1;
	return watched.revents & (POLLHUP | POLLERR) ? -1 : 0;
}

static int send_all(int port, const uint8_t *data, size_t size)
{
	size_t sent = 0;

	while (sent < size) {
		ssize_t count = write(port, data + sent, size - sent);

		if (count < 0 && (errno != EAGAIN || wait_writable(port) != 0))
			return -1;
		if (count > 0)
			sent += (size_t)count;
	}
	return 0;
}

static int send_message(const struct channel *channel, uint32_t type, const void *payload,
			size_t size)
{
	uint8_t frame[8 + 1024];

	if (channel->control < 0 || size > sizeof(frame) - 8)
		return -1;
	put_u32(frame, type);
	put_u32(frame + 4, (uint32_t)size);
	memcpy(frame + 8, payload, size);
	return send_all(channel->control, frame, 8 + size);
}

int send_mark(const struct channel *channel)
{
	static const uint8_t mark[FRAME_HEAD];

	return channel->stream < 0 ? -1 : send_all(channel->stream, mark, sizeof(mark));
}

int send_ends(const struct channel *channel)
{
	uint8_t ends[2 * FRAME_HEAD] = {0};

	put_u64(ends, 1);
	put_u64(ends + FRAME_HEAD, 2);
	return channel->stream < 0 ? -1 : send_all(channel->stream, ends, sizeof(ends));
}

static int wait_readable(const struct channel *channel)
{
	struct pollfd watched = {.fd = channel->control, .events = POLLIN};
	int ready;

	do {
		ready = poll(&watched, 1, -1);
	} while (ready < 0 && errno == EINTR);
	return ready == 1 && watched.revents & POLLIN ? 0 : -1;
}

static int receive_all(const struct channel *channel, uint8_t *to, size_t size)
{
	size_t got = 0;

	while (got < size) {
		ssize_t count = read(channel->control, to + got, size - got);

		if (count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR))
			return -1;
		if (count < 0 && wait_readable(channel) != 0)
			return -1;
		if (count > 0)
			got += (size_t)count;
	}
	return 0;
}

int channel_receive(const struct channel *channel, struct message *message)
{
	static uint8_t payload[PAYLOAD_MAX + 1];
	uint8_t head[8];

	if (receive_all(channel, head, sizeof(head)) != 0)
		return -1;
	message->type = get_u32(head);
	message->size = get_u32(head + 4);
	message->payload = (char *)payload;
	if (message->size > PAYLOAD_MAX)
		return -1;
	memset(payload, 0, PAYLOAD_LEAST);
	payload[message->size] = '\0';
	return receive_all(channel, payload, message->size);
}

int send_hello(const struct channel *channel, const char *facts)
{
	uint8_t payload[256];
	size_t size = strnlen(facts, sizeof(payload) - 4);

	put_u32(payload, PROTOCOL_VERSION);
	memcpy(payload + 4, facts, size);
	return send_message(channel, MESSAGE_HELLO, payload, 4 + size);
}

int send_event(const struct channel *channel, uint64_t nanoseconds, const char *name)
{
	uint8_t payload[64];
	size_t size = strnlen(name, sizeof(payload) - 8);

	put_u64(payload, nanoseconds);
	memcpy(payload + 8, name, size);
	return send_message(channel, MESSAGE_EVENT, payload, 8 + size);
}

int send_exit(const struct channel *channel, uint32_t status)
{
	uint8_t payload[4];

	put_u32(payload, status);
	return send_message(channel, MESSAGE_EXIT, payload, sizeof(payload));
}

int send_error(const struct channel *channel, const struct failure *why)
{
	uint8_t payload[4 + sizeof(why->text)];
	size_t size = strnlen(why->text, sizeof(why->text));

	put_u32(payload, why->status);
	memcpy(payload + 4, why->text, size);
	return send_message(channel, MESSAGE_ERROR, payload, 4 + size);
}

int send_started(const struct channel *channel, uint32_t process)
{
	uint8_t payload[4];

	put_u32(payload, process);
	return send_message(channel, MESSAGE_STARTED, payload, sizeof(payload));
}

int send_ended(const struct channel *channel, uint32_t process, uint32_t status)
{
	uint8_t payload[8];

	put_u32(payload, process);
	put_u32(payload + 4, status);
	return send_message(channel, MESSAGE_ENDED, payload, sizeof(payload));
}

int send_refused(const struct channel *channel, uint32_t process, const struct failure *why)
{
	uint8_t payload[8 + sizeof(why->text)];
	size_t size = strnlen(why->text, sizeof(why->text));

	put_u32(payload, process);
	put_u32(payload + 4, why->status);
	memcpy(payload + 8, why->text, size);
	return send_message(channel, MESSAGE_REFUSED, payload, 8 + size);
}

int send_input_window(const struct channel *channel, uint64_t sequence, uint32_t size)
{
	uint8_t payload[12];

	put_u64(payload, sequence);
	put_u32(payload + 8, size);
	return send_message(channel, MESSAGE_INPUT_WINDOW, payload, sizeof(payload));
}

int send_pong(const struct channel *channel, uint64_t token)
{
	uint8_t payload[8];

	put_u64(payload, token);
	return send_message(channel, MESSAGE_PONG, payload, sizeof(payload));
}

int decode(struct decoder *decoder, const uint8_t **data, size_t *size, struct message *message)
{
	while (*size > 0 || decoder->have >= 8) {
		uint32_t length;
		size_t wanted, taken;

		while (decoder->have < 8 && *size > 0) {
			decoder->head[decoder->have++] = *(*data)++;
			(*size)--;
		}
		if (decoder->have < 8)
			return 0;
		if (decoder->have == 8)
			memset(decoder->payload, 0, PAYLOAD_LEAST);
		length = get_u32(decoder->head + 4);
		if (length > PAYLOAD_MAX)
			return -1;
		wanted = 8 + length - decoder->have;
		taken = wanted < *size ? wanted : *size;
		memcpy(decoder->payload + decoder->have - 8, *data, taken);
		*data += taken;
		*size -= taken;
		decoder->have += taken;
		if (taken < wanted)
			return 0;
		decoder->have = 0;
		decoder->payload[length] = '\0';
		message->type = get_u32(decoder->head);
		message->size = length;
		message->payload = (char *)decoder->payload;
		return 1;
	}
	return 0;
}
