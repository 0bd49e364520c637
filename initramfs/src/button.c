#include "button.h"

#include <fcntl.h>
#include <linux/input.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { INPUTS = 8 };

static bool has_power_key(int fd)
{
	unsigned char keys[KEY_MAX / 8 + 1];

	memset(keys, 0, sizeof(keys));
	return ioctl(fd, EVIOCGBIT(EV_KEY, sizeof(keys)), keys) >= 0 &&
	       (keys[KEY_POWER / 8] >> KEY_POWER % 8 & 1) != 0;
}

int button_open(void)
{
	for (int input = 0; input < INPUTS; input++) {
		char path[32];
		int fd;

		snprintf(path, sizeof(path), "/dev/input/event%d", input);
		fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
		if (fd >= 0 && has_power_key(fd))
			return fd;
		if (fd >= 0)
			close(fd);
	}
	return -1;
}

bool button_is_pressed(int button)
{
	struct input_event event;
	bool is_pressed = false;

	while (read(button, &event, sizeof(event)) == (ssize_t)sizeof(event))
		is_pressed |= event.type == EV_KEY && event.code == KEY_POWER && event.value == 1;
	return is_pressed;
}
