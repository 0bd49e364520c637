/* Any bytes as any file of the boot spec: refused or taken, never more than that. */
#include <stdlib.h>
#include <string.h>

#include "parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct user user;
	struct root_device root;
	struct network network;
	struct health_times times;
	char *strings[16];
	char picked[32];
	uint64_t number;
	char *text;

	if (size == 0)
		return 0;
	text = malloc(size);
	if (text == NULL)
		return 0;
	memcpy(text, data + 1, size - 1);
	text[size - 1] = '\0';
	switch (data[0] % 7) {
	case 0:
		if (parse_strings(text, size - 1, strings, 16) == 0)
			for (char **string = strings; *string != NULL; string++)
				number = strlen(*string);
		break;
	case 1:
		parse_number(text, INT64_MAX, &number);
		break;
	case 2:
		parse_user(text, &user);
		break;
	case 3:
		parse_root_device(text, &root);
		break;
	case 4:
		parse_health_times(text, &times);
		break;
	case 5:
		number = pick_resolvers(text, picked, sizeof(picked));
		break;
	default:
		parse_network(text, &network);
	}
	free(text);
	return 0;
}
