/* Copying a directory of the image, and removing what a copy that failed has left. */
#ifndef HYPERSTART_COPY_H
#define HYPERSTART_COPY_H

/* Copies all that is in the directory from into the directory to, with owners, modes, times and
 * extended attributes, and gives to those of from. What lies on other file systems is left out.
 * Both stay open. Returns 0, or -1 with errno. */
int copy_directory(int from, int to);

/* Removes path with all that is in it; it need not be there. Returns 0, or -1 with errno. */
int remove_tree(const char *path);

#endif
