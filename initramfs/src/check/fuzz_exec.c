/* Any bytes as the payload of EXEC, in memory of just their size: read or refused. */
#include <stdlib.h>
#include <string.h>

#include "request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char *variables[2 * STRINGS_MAX];
	static struct request request;
	struct message message = {.type = MESSAGE_EXEC, .size = (uint32_t)size};
	struct failure why;
	size_t room = size + 1 > PAYLOAD_LEAST ? size + 1 : PAYLOAD_LEAST;

	if (size > PAYLOAD_MAX)
		return 0;
	message.payload = calloc(1, room);
	if (message.payload == NULL)
		return 0;
	memcpy(message.payload, data, size);
	if (request_read(&message, CONTAINERS_MAX, &request, &why) == 0) {
		if (request.argv[0] == NULL || *request.argv[0] == '\0')
			abort();
		if (request.container >= CONTAINERS_MAX)
			abort();
		merge_environ(request.argv, request.environ, variables, 2 * STRINGS_MAX);
	}
	free(message.payload);
	return 0;
}
