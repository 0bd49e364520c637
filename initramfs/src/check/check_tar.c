/* Headers of tar archives: what is written is read again, whatever its numbers; nonsense is not. */
#include <string.h>

#include "check.h"
#include "tar.h"

static void check_round(const struct tar_header *given)
{
	uint8_t block[TAR_BLOCK];
	struct tar_header got;

	tar_encode(block, given);
	CHECK(tar_decode(block, &got) == TAR_HEADER);
	CHECK(got.type == given->type && got.mode == given->mode && got.size == given->size);
	CHECK(got.uid == given->uid && got.gid == given->gid && got.mtime == given->mtime);
	CHECK(got.major == given->major && got.minor == given->minor);
	CHECK(strncmp(got.name, given->name, TAR_NAME) == 0);
	CHECK(strncmp(got.link, given->link, TAR_NAME) == 0);
	/* Any other byte makes another sum. */
	for (size_t i = 0; i < TAR_BLOCK; i++) {
		if (i >= 148 && i < 156)
			continue;
		block[i] ^= 1;
		CHECK(tar_decode(block, &got) == TAR_NONSENSE);
		block[i] ^= 1;
	}
}

static void check_rounds(void)
{
	static const uint64_t sizes[] = {0, 511, 077777777777, 0100000000000, INT64_MAX};
	static const int64_t times[] = {0, -1, 077777777777, 0100000000000, INT64_MAX, INT64_MIN};
	static const uint32_t ids[] = {0, 1000, 07777777, 010000000, UINT32_MAX};
	struct tar_header header = {.type = TAR_FILE, .mode = 07777, .name = "a/b", .link = "to"};

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		header.size = sizes[i];
		check_round(&header);
	}
	for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
		header.mtime = times[i];
		check_round(&header);
	}
	for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
		header.uid = header.gid = ids[i];
		check_round(&header);
	}
	header.type = TAR_CHARACTER;
	header.major = 4095;
	header.minor = 1048575;
	memset(header.name, 'n', TAR_NAME);
	memset(header.link, 'l', TAR_NAME);
	check_round(&header);
}

static void seal(uint8_t *block)
{
	unsigned sum = 0;

	memset(block + 148, ' ', 8);
	for (size_t i = 0; i < TAR_BLOCK; i++)
		sum += block[i];
	snprintf((char *)block + 148, 8, "%06o", sum);
}

static void check_nonsense(size_t at, const char *bytes, size_t size)
{
	const struct tar_header header = {.type = TAR_BLOCK_DEVICE, .name = "a"};
	struct tar_header got;
	uint8_t block[TAR_BLOCK];

	tar_encode(block, &header);
	memcpy(block + at, bytes, size);
	seal(block);
	CHECK(tar_decode(block, &got) == TAR_NONSENSE);
}

static void check_names_of_posix(void)
{
	const struct tar_header header = {.type = TAR_FILE, .name = "name"};
	struct tar_header got;
	uint8_t block[TAR_BLOCK];

	tar_encode(block, &header);
	memcpy(block + 257, "ustar\00000", 8);
	memset(block + 345, 'p', 155);
	memset(block, 'n', 100);
	block[156] = '\0';
	seal(block);
	CHECK(tar_decode(block, &got) == TAR_HEADER && got.type == TAR_FILE);
	CHECK(strlen(got.name) == TAR_LONG_NAME && got.name[155] == '/');
}

int main(void)
{
	static const uint8_t zeros[TAR_BLOCK];
	struct tar_header got;

	CHECK(tar_decode(zeros, &got) == TAR_END);
	check_rounds();
	check_names_of_posix();
	check_nonsense(124, "00000000008\0", 12);         /* no octal digit */
	check_nonsense(124, "-0000000001\0", 12);
	check_nonsense(124, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 12); /* below zero */
	check_nonsense(124, "\x80\0\0\0\x80\0\0\0\0\0\0\0", 12); /* above what a file can have */
	check_nonsense(124, "\x80\0\0\1\0\0\0\0\0\0\0\0", 12);
	check_nonsense(108, "\x80\0\0\1\0\0\0\0", 8);     /* an id over 32 bits */
	check_nonsense(100, "\xff\xff\xff\xff\xff\xff\xff\xff", 8);
	check_nonsense(329, "x", 1);
	return 0;
}
