/* Any bytes as blocks of a tar archive: nonsense, or a header that is written and read again the same.
 * A fuzzer does not guess sums, so they are put right. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tar.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void mend(uint8_t *block)
{
	unsigned sum = 0;

	memset(block + 148, ' ', 8);
	for (size_t i = 0; i < TAR_BLOCK; i++)
		sum += block[i];
	snprintf((char *)block + 148, 8, "%06o", sum);
}

static void check(const uint8_t *block)
{
	struct tar_header first = {0}, second = {0};
	uint8_t written[TAR_BLOCK];

	if (tar_decode(block, &first) != TAR_HEADER)
		return;
	if (strlen(first.name) > TAR_LONG_NAME || strlen(first.link) > TAR_NAME)
		abort();
	tar_encode(written, &first);
	if (tar_decode(written, &second) != TAR_HEADER || first.type != second.type ||
	    first.size != second.size || first.mtime != second.mtime || first.uid != second.uid ||
	    first.gid != second.gid || first.mode != second.mode || first.major != second.major ||
	    first.minor != second.minor || strcmp(first.link, second.link) != 0 ||
	    strncmp(first.name, second.name, TAR_NAME) != 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t block[TAR_BLOCK];

	for (size_t at = 0; at < size; at += TAR_BLOCK) {
		size_t part = size - at < TAR_BLOCK ? size - at : TAR_BLOCK;

		memset(block, 0, sizeof(block));
		memcpy(block, data + at, part);
		check(block);
		mend(block);
		check(block);
	}
	return 0;
}
