/* faults: maps the file argv[1] and reads each of its pages; prints how many page faults that took. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* Huge pages want the mapping aligned as the file is. */
#define PLACE ((void *)0x7e0000000000UL)

int main(int argc, char **argv)
{
    struct rusage before, after;
    struct stat file;
    unsigned sum = 0;
    int fd = argc == 2 ? open(argv[1], O_RDONLY) : -1;

    if (fd < 0 || fstat(fd, &file) != 0) {
        perror("faults");
        return 1;
    }
    volatile unsigned char *map =
        mmap(PLACE, (size_t)file.st_size, PROT_READ, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
    if (map == MAP_FAILED || getrusage(RUSAGE_SELF, &before) != 0) {
        perror("faults");
        return 1;
    }
    for (off_t at = 0; at < file.st_size; at += 4096)
        sum += map[at];
    if (getrusage(RUSAGE_SELF, &after) != 0) {
        perror("faults");
        return 1;
    }
    printf("%ld %u\n", after.ru_minflt - before.ru_minflt, sum);
    return 0;
}
