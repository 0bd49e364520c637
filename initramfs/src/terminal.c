#include "terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

void terminal_resize(int ours, const struct terminal_size *size)
{
	const struct winsize wanted = {.ws_row = size->rows, .ws_col = size->columns};

	ioctl(ours, TIOCSWINSZ, &wanted);
}

int terminal_take(int theirs)
{
	return ioctl(theirs, TIOCSCTTY, 0);
}

int terminal_open(struct terminal *terminal, const struct terminal_size *size, uint32_t uid,
		  struct failure *why)
{
	int locked = 0;
	int error;

	terminal->theirs = -1;
	terminal->ours = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	/* By its master, not by its path: what the image has made of /dev/pts does not matter. */
	if (terminal->ours >= 0 && ioctl(terminal->ours, TIOCSPTLCK, &locked) == 0)
		terminal->theirs = ioctl(terminal->ours, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (terminal->theirs >= 0 && fchown(terminal->theirs, uid, (gid_t)-1) == 0) {
		terminal_resize(terminal->ours, size);
		return 0;
	}
	error = errno;
	if (terminal->theirs >= 0)
		close(terminal->theirs);
	if (terminal->ours >= 0)
		close(terminal->ours);
	return fail(why, STATUS_FAILED, "terminal: %s", strerror(error));
}
