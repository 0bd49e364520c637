/* Waiting for devices: the kernel says when one changes, nothing is asked over and over. */
#ifndef HYPERSTART_UEVENT_H
#define HYPERSTART_UEVENT_H

#include <stdbool.h>

/* Returns 0 as soon as is_ready(subject), which is asked again after each change of a device; -1
 * with errno, ETIMEDOUT after so many milliseconds. */
int wait_for_device(bool (*is_ready)(void *subject), void *subject, int milliseconds);

#endif
