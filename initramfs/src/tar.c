#include "tar.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* Where the fields lie, and how long they are. */
struct field {
	size_t at;
	size_t size;
};

static const struct field name_field = {0, 100}, mode_field = {100, 8}, uid_field = {108, 8},
			  gid_field = {116, 8}, size_field = {124, 12}, mtime_field = {136, 12},
			  sum_field = {148, 8}, link_field = {157, 100}, major_field = {329, 8},
			  minor_field = {337, 8}, prefix_field = {345, 155};

enum { TYPE_AT = 156, MAGIC_AT = 257 };

/* Octal digits and a NUL; a number without room as those is one of base 256, its first bit set. */
static void put_number(uint8_t *block, struct field field, int64_t number)
{
	uint8_t *to = block + field.at;
	uint64_t bits = (uint64_t)number;

	if (number >= 0 && bits >> (3 * (field.size - 1)) == 0) {
		to[field.size - 1] = '\0';
		for (size_t i = field.size - 1; i-- > 0; bits >>= 3)
			to[i] = (uint8_t)('0' + (bits & 7));
		return;
	}
	for (size_t i = field.size; i-- > 0; bits = i >= field.size - 8 ? bits >> 8 : bits)
		to[i] = i >= field.size - 8 ? (uint8_t)bits : number < 0 ? 0xff : 0;
	to[0] |= 0x80;
}

static int get_number(const uint8_t *block, struct field field, int64_t *number)
{
	const uint8_t *from = block + field.at;
	size_t i = 0;
	uint64_t bits = 0;

	if (from[0] & 0x80) {
		bool is_negative = from[0] == 0xff;

		/* What is above 64 bits must be the sign alone. */
		for (i = 0; i < field.size; i++) {
			uint8_t byte = i == 0 && !is_negative ? from[i] & 0x7f : from[i];

			if (i < field.size - 8 && byte != (is_negative ? 0xff : 0))
				return -1;
			bits = bits << 8 | byte;
		}
		*number = (int64_t)bits;
		return field.size <= 8 || (*number < 0) == is_negative ? 0 : -1;
	}
	while (i < field.size && from[i] == ' ')
		i++;
	for (; i < field.size && from[i] >= '0' && from[i] <= '7'; i++)
		bits = bits << 3 | (uint64_t)(from[i] - '0');
	for (; i < field.size; i++) {
		if (from[i] != ' ' && from[i] != '\0')
			return -1;
	}
	*number = (int64_t)bits;
	return 0;
}

static int get_unsigned(const uint8_t *block, struct field field, uint32_t *number)
{
	int64_t value;

	if (get_number(block, field, &value) != 0 || value < 0 || value > UINT32_MAX)
		return -1;
	*number = (uint32_t)value;
	return 0;
}

/* The sum of all bytes, those of the sum itself taken for spaces. */
static uint32_t sum_of(const uint8_t *block)
{
	uint32_t sum = 0;

	for (size_t i = 0; i < TAR_BLOCK; i++)
		sum += i - sum_field.at < sum_field.size ? ' ' : block[i];
	return sum;
}

static void put_text(uint8_t *block, struct field field, const char *text)
{
	memcpy(block + field.at, text, strnlen(text, field.size));
}

void tar_encode(uint8_t *block, const struct tar_header *header)
{
	memset(block, 0, TAR_BLOCK);
	put_text(block, name_field, header->name);
	put_number(block, mode_field, header->mode);
	put_number(block, uid_field, header->uid);
	put_number(block, gid_field, header->gid);
	put_number(block, size_field, (int64_t)header->size);
	put_number(block, mtime_field, header->mtime);
	block[TYPE_AT] = (uint8_t)header->type;
	put_text(block, link_field, header->link);
	memcpy(block + MAGIC_AT, "ustar  ", 8);
	if (header->type == TAR_CHARACTER || header->type == TAR_BLOCK_DEVICE) {
		put_number(block, major_field, header->major);
		put_number(block, minor_field, header->minor);
	}
	snprintf((char *)block + sum_field.at, sum_field.size, "%06o", sum_of(block));
	block[sum_field.at + 7] = ' ';
}

static bool is_zero(const uint8_t *block)
{
	for (size_t i = 0; i < TAR_BLOCK; i++) {
		if (block[i] != 0)
			return false;
	}
	return true;
}

static void get_text(const uint8_t *block, struct field field, char *text)
{
	size_t size = strnlen((const char *)block + field.at, field.size);

	memcpy(text, block + field.at, size);
	text[size] = '\0';
}

/* POSIX has the beginning of a long name in a field of its own, where GNU has other things. */
static void get_name(const uint8_t *block, char *name)
{
	size_t size = 0;

	if (memcmp(block + MAGIC_AT, "ustar\0", 6) == 0 && block[prefix_field.at] != '\0') {
		get_text(block, prefix_field, name);
		size = strlen(name);
		name[size++] = '/';
	}
	get_text(block, name_field, name + size);
}

enum tar_found tar_decode(const uint8_t *block, struct tar_header *header)
{
	uint32_t sum;
	int64_t size;

	if (is_zero(block))
		return TAR_END;
	if (get_unsigned(block, sum_field, &sum) != 0 || sum != sum_of(block))
		return TAR_NONSENSE;
	if (get_unsigned(block, mode_field, &header->mode) != 0 ||
	    get_unsigned(block, uid_field, &header->uid) != 0 ||
	    get_unsigned(block, gid_field, &header->gid) != 0 ||
	    get_number(block, size_field, &size) != 0 || size < 0 ||
	    get_number(block, mtime_field, &header->mtime) != 0)
		return TAR_NONSENSE;
	header->type = block[TYPE_AT] == '\0' || block[TYPE_AT] == '7' ? TAR_FILE : (char)block[TYPE_AT];
	header->mode &= 07777;
	header->size = (uint64_t)size;
	header->major = header->minor = 0;
	if ((header->type == TAR_CHARACTER || header->type == TAR_BLOCK_DEVICE) &&
	    (get_unsigned(block, major_field, &header->major) != 0 ||
	     get_unsigned(block, minor_field, &header->minor) != 0))
		return TAR_NONSENSE;
	get_name(block, header->name);
	get_text(block, link_field, header->link);
	return TAR_HEADER;
}
