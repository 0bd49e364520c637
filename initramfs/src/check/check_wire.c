/* The decoders of both ports: the same result however the bytes are cut, and nonsense refused. */
#include <string.h>

#include "channel.h"
#include "check.h"
#include "stream.h"

static const uint8_t messages[] =
	"\0\0\0\x10" "\0\0\0\4" "\0\0\0\xf"      /* SIGNAL 15 */
	"\0\0\0\x63" "\0\0\0\0"                   /* an unknown type, empty */
	"\0\0\0\x63" "\0\0\0\x50"                 /* one that is longer */
	"0123456789012345678901234567890123456789"
	"0123456789012345678901234567890123456789"
	"\0\0\0\x11" "\0\0\0\4" "\0\0\x27\x10";   /* STOP 10000 */

static void check_messages(size_t piece)
{
	static const uint32_t types[] = {16, 99, 99, 17};
	static const uint32_t sizes[] = {4, 0, 80, 4};
	static struct decoder decoder;
	struct message message;
	size_t count = 0;

	decoder.have = 0;

	for (size_t at = 0; at < sizeof(messages) - 1; at += piece) {
		const uint8_t *data = messages + at;
		size_t size = sizeof(messages) - 1 - at < piece ? sizeof(messages) - 1 - at : piece;

		while (decode(&decoder, &data, &size, &message) > 0) {
			CHECK(count < 4 && message.type == types[count]);
			CHECK(message.size == sizes[count]);
			CHECK(message.payload[message.size] == '\0');
			if (count == 1)
				CHECK(get_u64(message.payload) == 0);
			if (count == 2)
				CHECK(memcmp(message.payload + 70, "0123456789", 10) == 0);
			if (count == 0)
				CHECK(get_u32(message.payload) == 15);
			if (count == 3)
				CHECK(get_u32(message.payload) == 10000);
			count++;
		}
		CHECK(size == 0);
	}
	CHECK(count == 4);
}

static void check_message_over_the_limit(void)
{
	const uint8_t bad[] = {0, 0, 0, 16, 0, 1, 0, 1};
	const uint8_t *data = bad;
	size_t size = sizeof(bad);
	static struct decoder decoder;
	struct message message;

	CHECK(decode(&decoder, &data, &size, &message) < 0);
}

static const uint8_t frames_in[] =
	"\0\0\0\0\0\0\0\1" "\0\0\0\5" "hello"
	"\0\0\0\0\0\0\0\2" "\0\0\0\4" "skip"
	"\0\0\0\0\0\0\0\3" "\0\0\0\0"
	"\0\0\0\0\0\0\0\1" "\0\0\0\6" " world"
	"\0\0\0\0\0\0\0\1" "\0\0\0\0";

static void check_frames(size_t piece)
{
	static const uint64_t sequences_ended[] = {3, 1};
	struct frames frames = {.have = 0};
	const uint8_t *part;
	char got[32];
	size_t got_size = 0, part_size, ends = 0;

	for (size_t at = 0; at < sizeof(frames_in) - 1; at += piece) {
		const uint8_t *data = frames_in + at;
		size_t size = sizeof(frames_in) - 1 - at < piece ? sizeof(frames_in) - 1 - at : piece;
		enum found found;

		while ((found = frames_take(&frames, &data, &size, &part, &part_size)) !=
		       FOUND_NOTHING) {
			CHECK(found == FOUND_END || found == FOUND_DATA);
			if (found == FOUND_END) {
				CHECK(ends < 2 && frames.sequence == sequences_ended[ends]);
				ends++;
				continue;
			}
			CHECK(frames.sequence == 1 || frames.sequence == 2);
			if (frames.sequence == 2)
				continue;
			CHECK(got_size + part_size <= sizeof(got));
			memcpy(got + got_size, part, part_size);
			got_size += part_size;
		}
		CHECK(size == 0);
	}
	CHECK(ends == 2 && got_size == 11 && memcmp(got, "hello world", 11) == 0);
}

static void check_frame_over_the_limit(void)
{
	const uint8_t bad[] = {0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0, 1};
	const uint8_t *data = bad, *part;
	size_t size = sizeof(bad), part_size;
	struct frames frames = {.have = 0};

	CHECK(frames_take(&frames, &data, &size, &part, &part_size) == FOUND_NONSENSE);
}

int main(void)
{
	for (size_t piece = 1; piece < sizeof(messages); piece++)
		check_messages(piece);
	for (size_t piece = 1; piece < sizeof(frames_in); piece++)
		check_frames(piece);
	check_message_over_the_limit();
	check_frame_over_the_limit();
	return 0;
}
