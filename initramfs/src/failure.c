#include "failure.h"

#include <stdarg.h>
#include <stdio.h>

int fail(struct failure *why, uint32_t status, const char *format, ...)
{
	va_list arguments;

	why->status = status;
	va_start(arguments, format);
	vsnprintf(why->text, sizeof(why->text), format, arguments);
	va_end(arguments);
	/* Names come from the image: none may move a terminal's cursor or break the line. */
	for (char *byte = why->text; *byte != '\0'; byte++) {
		if (*byte < ' ' || *byte > '~')
			*byte = '?';
	}
	return -1;
}
