/* What hyperstart does itself where the image may have no program for it. */
#ifndef HYPERSTART_BUILTIN_H
#define HYPERSTART_BUILTIN_H

/* In a child, whose standard files are set: runs the built-in that argv[0] names. Returns its exit
 * status; what failed is told on standard error. */
int builtin_run(char *const *argv);

#endif
