/* The power button, by which a hypervisor asks a machine to end that has no channel. */
#ifndef HYPERSTART_BUTTON_H
#define HYPERSTART_BUTTON_H

#include <stdbool.h>

/* Returns the descriptor of the button's events, -1 if the machine has none. */
int button_open(void);

/* Reads its events; whether it was pressed. */
bool button_is_pressed(int button);

#endif
