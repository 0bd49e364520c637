/* Any bytes as the boot spec's mounts: refused or taken, never more than that. */
#include <stdlib.h>
#include <string.h>

#include "mountline.h"
#include "parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char *strings[256];
	static struct mount_line lines[8];
	static volatile size_t sum;
	size_t count;
	char *text = malloc(size + 1);

	if (text == NULL)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	if (parse_strings(text, size, strings, 256) == 0 &&
	    parse_mounts(strings, lines, 8, &count) == 0) {
		for (size_t i = 0; i < count; i++)
			sum += strlen(lines[i].source) + strlen(lines[i].path) + strlen(lines[i].data);
	}
	free(text);
	return 0;
}
