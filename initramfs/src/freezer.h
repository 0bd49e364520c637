/* The application's control group, by which it can be made to stand still. */
#ifndef HYPERSTART_FREEZER_H
#define HYPERSTART_FREEZER_H

#include <stdbool.h>

/* Makes the group and returns a descriptor to write "0" to, which moves the writer into it; -1 with
 * errno. */
int freezer_open(void);

/* Returns once all of the group stands still, or at once having let it go on; -1 with errno. */
int freezer_set(bool is_frozen);

#endif
