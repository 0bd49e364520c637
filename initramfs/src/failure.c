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
	return -1;
}
