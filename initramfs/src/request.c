#include "request.h"

#include <string.h>

enum { FLAG_INPUT = 1, FLAG_TERMINAL = 2, FLAG_BUILTIN = 4, HEAD = 16 };

/* Takes one string off *rest; NULL if none is left. */
static char *take_string(char **rest, const char *end)
{
	char *string = *rest;

	if (string >= end)
		return NULL;
	*rest = string + strlen(string) + 1;
	return string;
}

/* Takes the strings up to an empty one, or to the end if is_last. */
static int take_strings(char **rest, const char *end, char **strings, bool is_last)
{
	size_t count = 0;
	char *string;

	while ((string = take_string(rest, end)) != NULL && (is_last || *string != '\0')) {
		if (count + 1 >= STRINGS_MAX)
			return -1;
		strings[count++] = string;
	}
	strings[count] = NULL;
	return string != NULL || is_last ? 0 : -1;
}

int request_read(const struct message *message, size_t containers, struct request *request,
		 struct failure *why)
{
	char *rest = message->payload + HEAD;
	const char *end = message->payload + message->size;
	uint32_t flags = get_u32(message->payload + 8);
	char *user;

	/* A payload without a whole string ends before its last NUL. */
	if (message->size <= HEAD || end[-1] != '\0')
		return fail(why, STATUS_FAILED, "exec: the message is malformed");
	request->process = get_u32(message->payload);
	request->container = get_u32(message->payload + 4);
	request->wants_input = flags & FLAG_INPUT;
	request->has_terminal = flags & FLAG_TERMINAL;
	request->is_builtin = flags & FLAG_BUILTIN;
	request->terminal_size.rows = get_u16(message->payload + 12);
	request->terminal_size.columns = get_u16(message->payload + 14);
	user = take_string(&rest, end);
	request->cwd = take_string(&rest, end);
	if (flags > (FLAG_INPUT | FLAG_TERMINAL | FLAG_BUILTIN) || request->cwd == NULL ||
	    (request->has_terminal && request->is_builtin))
		return fail(why, STATUS_FAILED, "exec: the message is malformed");
	if (request->container >= containers)
		return fail(why, STATUS_FAILED, "exec: there is no container %u", request->container);
	request->has_user = *user != '\0';
	if (request->has_user && parse_user(user, &request->user) != 0)
		return fail(why, STATUS_FAILED, "exec: user is malformed");
	if (*request->cwd != '\0' && *request->cwd != '/')
		return fail(why, STATUS_FAILED, "exec: the working directory is no absolute path");
	if (take_strings(&rest, end, request->environ, false) != 0)
		return fail(why, STATUS_FAILED, "exec: the environment is malformed");
	if (take_strings(&rest, end, request->argv, true) != 0 || request->argv[0] == NULL ||
	    *request->argv[0] == '\0')
		return fail(why, STATUS_FAILED, "exec: there is no command, or too long a one");
	return 0;
}

static bool has_name(const char *variable, const char *other)
{
	size_t size = strcspn(other, "=");

	return strncmp(variable, other, size) == 0 && variable[size] == '=';
}

static bool is_replaced(const char *variable, char *const *latter)
{
	for (; *latter != NULL; latter++) {
		if (has_name(variable, *latter))
			return true;
	}
	return false;
}

int merge_environ(char *const *former, char *const *latter, char **merged, size_t limit)
{
	size_t count = 0;

	for (; *former != NULL; former++) {
		if (is_replaced(*former, latter))
			continue;
		if (count + 1 >= limit)
			return -1;
		merged[count++] = *former;
	}
	for (; *latter != NULL; latter++) {
		if (count + 1 >= limit)
			return -1;
		merged[count++] = *latter;
	}
	merged[count] = NULL;
	return 0;
}
