/* EXEC: what is taken from its payload, and what is refused; environments joined. */
#include <string.h>

#include "check.h"
#include "request.h"

/* What the last request points into. */
static char *memory;

/* A message in memory of just its size and one NUL, so that a read beyond it is seen. PAYLOAD_LEAST
 * bytes are there in any case. */
static int read_request(const char *payload, size_t size, struct request *request)
{
	size_t room = size + 1 > PAYLOAD_LEAST ? size + 1 : PAYLOAD_LEAST;
	struct message message = {.type = MESSAGE_EXEC, .size = (uint32_t)size};
	struct failure why;

	free(memory);
	memory = calloc(1, room);
	CHECK(memory != NULL);
	memcpy(memory, payload, size);
	message.payload = memory;
	return request_read(&message, 3, request, &why);
}

#define HEAD_IN(container, flags) "\0\0\0\7" "\0\0\0" container "\0\0\0" flags "\0\x19\0\x5a"
#define HEAD(flags) HEAD_IN("\0", flags)
#define REFUSED(payload) CHECK(read_request(payload, sizeof(payload) - 1, request) != 0)

static void check_requests(struct request *request)
{
	static const char good[] = HEAD("\3") "1 2 3\0/srv\0A=1\0B=\0\0cmd\0\0arg\0";
	static const char other[] = HEAD_IN("\2", "\0") "\0\0\0c\0";
	static const char least[] = HEAD("\4") "\0\0\0c\0";

	CHECK(read_request(good, sizeof(good) - 1, request) == 0);
	CHECK(request->process == 7 && request->wants_input && request->has_terminal);
	CHECK(!request->is_builtin && request->terminal_size.rows == 25);
	CHECK(request->terminal_size.columns == 90 && request->has_user);
	CHECK(request->user.uid == 1 && request->user.gid == 2 && request->user.group_count == 1);
	CHECK(strcmp(request->cwd, "/srv") == 0 && strcmp(request->environ[1], "B=") == 0);
	CHECK(request->environ[2] == NULL && strcmp(request->argv[0], "cmd") == 0);
	CHECK(strcmp(request->argv[1], "") == 0 && strcmp(request->argv[2], "arg") == 0);
	CHECK(request->argv[3] == NULL);
	CHECK(read_request(least, sizeof(least) - 1, request) == 0 && request->is_builtin);
	CHECK(!request->has_user && *request->cwd == '\0' && request->environ[0] == NULL);
	CHECK(request->container == 0);
	CHECK(read_request(other, sizeof(other) - 1, request) == 0 && request->container == 2);
	REFUSED(HEAD_IN("\3", "\0") "\0\0\0c\0");
	REFUSED("");
	REFUSED("\0\0\0\7");
	REFUSED(HEAD("\0"));
	REFUSED(HEAD("\0") "\0");
	REFUSED(HEAD("\0") "\0\0");
	REFUSED(HEAD("\0") "\0\0\0");
	REFUSED(HEAD("\0") "\0\0A=1\0");
	REFUSED(HEAD("\0") "\0\0\0\0");
	REFUSED(HEAD("\0") "\0\0\0cmd");
	REFUSED(HEAD("\x8") "\0\0\0cmd\0");
	REFUSED(HEAD("\6") "\0\0\0cmd\0");
	REFUSED(HEAD("\0") "root\0\0\0cmd\0");
	REFUSED(HEAD("\0") "\0srv\0\0cmd\0");
}

static void check_environments(void)
{
	char *former[] = {"A=1", "AB=2", "C=3", "A=4", NULL};
	char *latter[] = {"A=5", "D=6", "E", NULL};
	char *merged[6];

	CHECK(merge_environ(former, latter, merged, 6) == 0);
	CHECK(strcmp(merged[0], "AB=2") == 0 && strcmp(merged[1], "C=3") == 0);
	CHECK(strcmp(merged[2], "A=5") == 0 && strcmp(merged[3], "D=6") == 0);
	CHECK(strcmp(merged[4], "E") == 0 && merged[5] == NULL);
	CHECK(merge_environ(former, latter, merged, 5) != 0);
	CHECK(merge_environ(former, latter + 3, merged, 4) != 0);
}

int main(void)
{
	static struct request request;

	check_requests(&request);
	check_environments();
	free(memory);
	return 0;
}
