/* Any bytes on either port: the decoders find the same in them whole and byte by byte, and an EXEC
 * among them is read or refused. */
#include <stdlib.h>
#include <string.h>

#include "channel.h"
#include "request.h"
#include "stream.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A number that tells apart what a port's bytes were decoded to. */
struct sum {
	uint64_t value;
};

static void add(struct sum *sum, uint64_t value)
{
	sum->value = (sum->value ^ value) * 0x100000001b3;
}

static void add_text(struct sum *sum, const char *text)
{
	for (; *text != '\0'; text++)
		add(sum, (uint8_t)*text);
	add(sum, 256);
}

static void add_request(struct sum *sum, const struct message *message)
{
	static char *variables[2 * STRINGS_MAX];
	static char *former[] = {"PATH=/bin", "A=", "A=1", NULL};
	static struct request request;
	struct failure why;

	if (request_read(message, 16, &request, &why) != 0) {
		add(sum, why.status);
		return;
	}
	add(sum, request.process);
	add_text(sum, request.cwd);
	for (size_t i = 0; request.has_user && i < request.user.group_count; i++)
		add(sum, request.user.groups[i]);
	for (char **argument = request.argv; *argument != NULL; argument++)
		add_text(sum, *argument);
	if (merge_environ(former, request.environ, variables, 2 * STRINGS_MAX) != 0)
		abort();
	for (char **variable = variables; *variable != NULL; variable++)
		add_text(sum, *variable);
}

static struct sum control(const uint8_t *data, size_t size, size_t piece)
{
	static struct decoder decoder;
	struct sum sum = {0};
	struct message message;

	decoder.have = 0;
	for (size_t at = 0; at < size; at += piece) {
		const uint8_t *rest = data + at;
		size_t left = size - at < piece ? size - at : piece;
		int found;

		while ((found = decode(&decoder, &rest, &left, &message)) > 0) {
			size_t seen = message.size < PAYLOAD_LEAST ? PAYLOAD_LEAST : message.size + 1;

			add(&sum, message.type);
			add(&sum, message.size);
			for (size_t i = 0; i < seen; i++)
				add(&sum, (uint8_t)message.payload[i]);
			if (message.type == MESSAGE_EXEC)
				add_request(&sum, &message);
		}
		if (found < 0)
			return sum;
		if (left != 0)
			abort();
	}
	return sum;
}

static struct sum stream(const uint8_t *data, size_t size, size_t piece)
{
	struct frames frames = {.have = 0};
	struct sum sum = {0};
	const uint8_t *part;
	size_t part_size;

	for (size_t at = 0; at < size; at += piece) {
		const uint8_t *rest = data + at;
		size_t left = size - at < piece ? size - at : piece;
		enum found found;

		while ((found = frames_take(&frames, &rest, &left, &part, &part_size)) !=
		       FOUND_NOTHING) {
			if (found == FOUND_NONSENSE)
				return sum;
			if (found == FOUND_END)
				add(&sum, 256);
			for (size_t i = 0; found == FOUND_DATA && i < part_size; i++) {
				add(&sum, frames.sequence);
				add(&sum, part[i]);
			}
		}
		if (left != 0)
			abort();
	}
	return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (control(data, size, size + 1).value != control(data, size, 1).value)
		abort();
	if (stream(data, size, size + 1).value != stream(data, size, 1).value)
		abort();
	return 0;
}
