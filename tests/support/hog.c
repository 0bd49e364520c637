/* Takes as many MiB as its argument says, and gives them back when told by a line. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static void told(const char *state)
{
	puts(state);
	fflush(stdout);
	if (getchar() == EOF)
		exit(1);
}

int main(int argc, char **argv)
{
	size_t size = argc > 1 ? strtoul(argv[1], NULL, 10) << 20 : 0;
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	memset(memory, 0xa5, size);
	told("taken");
	if (munmap(memory, size) != 0) {
		perror("munmap");
		return 1;
	}
	told("given back");
	return 0;
}
