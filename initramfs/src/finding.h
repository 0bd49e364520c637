/* Block devices by what lies on them, whatever bus they are on and in whatever order they come. */
#ifndef HYPERSTART_FINDING_H
#define HYPERSTART_FINDING_H

#include <stdbool.h>

#include "parse.h"

enum { DEVICE_PATH_MAX = 64 };

/* Finds the device that root names; whether it is there, its path is in device then. */
bool find_root(const struct root_device *root, char device[DEVICE_PATH_MAX]);

/* Finds the device with an ISO 9660 volume of that name. */
bool find_volume(const char *name, char device[DEVICE_PATH_MAX]);

#endif
